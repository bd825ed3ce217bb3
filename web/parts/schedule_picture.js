// The square of noise levels as SVG: RGB's level to the right, depth's upwards, the steps as dots from noise to clean.

import { tilt, trajectory } from "../maths/schedule.js";
import { localPosition, svg } from "./elements.js";
import { t } from "./texts.js";

const SIZE = { width: 300, height: 222 };
export const SQUARE = { left: 70, top: 8, side: 160 };
const STRIPS = { top: 188, height: 11, gap: 5 };
const MOST_DOTS = 200;
const CURVE_POINTS = 96;

// [x, y] in the picture of a pair of levels, and back.
export function toPicture([tRgb, tDepth]) {
    return [SQUARE.left + tRgb * SQUARE.side, SQUARE.top + (1 - tDepth) * SQUARE.side];
}

export function toLevels([x, y]) {
    return [(x - SQUARE.left) / SQUARE.side, 1 - (y - SQUARE.top) / SQUARE.side];
}

// Evenly chosen items, the first and the last among them.
export function thinned(items, most) {
    const every = Math.ceil(items.length / most);
    return items.filter((_, index) => index % every === 0 || index === items.length - 1);
}

export function curve(log2Alpha) {
    return Array.from({ length: CURVE_POINTS + 1 }, (_, index) => {
        // Even along the diagonal direction: the curve is steep at one end.
        const u = index / CURVE_POINTS;
        const level = tilt(u, -log2Alpha / 2);
        return [level, tilt(level, log2Alpha)];
    });
}

// Returns {element, draw(state)}. onDrag(tRgb, tDepth) while the user draws the curve, onEnd() after it.
export function schedulePicture(onDrag, onEnd, onKey) {
    const path = svg("path", { class: "mf-curve" });
    const dots = svg("g", { class: "mf-dots" });
    const strips = { rgb: svg("g"), depth: svg("g") };
    const element = svg("svg", {
        class: "mf-schedule", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, tabindex: 0, role: "slider",
        "aria-label": t("log2_alpha: which modality loses its noise first"), "aria-valuemin": -14, "aria-valuemax": 14,
    }, frame(), path, dots, strips.rgb, strips.depth);
    trackDrag(element, onDrag, onEnd);
    element.addEventListener("keydown", onKey);

    function draw({ steps, mu, log2Alpha, given, faded, locked }) {
        const points = trajectory(steps, mu, log2Alpha, given);
        path.setAttribute("d", pathThrough(curve(log2Alpha)));
        element.classList.toggle("mf-faded", faded);
        element.classList.toggle("mf-locked", locked);
        element.setAttribute("aria-valuenow", log2Alpha);
        element.setAttribute("aria-disabled", locked);
        const shown = thinned(points, MOST_DOTS);
        const radius = Math.max(1.3, 3 - shown.length / 60);
        dots.replaceChildren(...shown.map((levels) => {
            const [cx, cy] = toPicture(levels);
            return svg("circle", { cx: cx.toFixed(2), cy: cy.toFixed(2), r: radius.toFixed(2) });
        }));
        drawStrip(strips.rgb, "rgb", "RGB", STRIPS.top, shown.map(([rgb]) => rgb), given.rgb);
        drawStrip(strips.depth, "depth", t("Depth"), STRIPS.top + STRIPS.height + STRIPS.gap, shown.map(([, depth]) => depth), given.depth);
    }
    return { element, draw };
}

function frame() {
    const { left, top, side } = SQUARE;
    const text = (x, y, content, attributes = {}) => svg("text", { x, y, ...attributes }, content);
    const middle = top + side / 2;
    const lines = [0.25, 0.5, 0.75].flatMap((level) => [
        svg("line", { x1: left + level * side, x2: left + level * side, y1: top, y2: top + side }),
        svg("line", { x1: left, x2: left + side, y1: top + level * side, y2: top + level * side }),
    ]);
    return svg("g", {},
        svg("rect", { class: "mf-square", x: left, y: top, width: side, height: side, rx: 3 }),
        svg("g", { class: "mf-grid" }, ...lines, svg("line", { x1: left, y1: top + side, x2: left + side, y2: top })),
        text(left + 0.3 * side, top + 0.25 * side, t("RGB first"), { class: "mf-corner", "text-anchor": "middle" }),
        text(left + 0.7 * side, top + 0.8 * side, t("depth first"), { class: "mf-corner", "text-anchor": "middle" }),
        text(left + side + 6, top + 9, t("noise")),
        text(left - 6, top + side, t("clean"), { "text-anchor": "end" }),
        text(left + side / 2, top + side + 14, t("noise in RGB →"), { "text-anchor": "middle" }),
        text(left - 8, middle, t("noise in depth →"), {
            "text-anchor": "middle", transform: `rotate(-90 ${left - 8} ${middle})`,
        }));
}

// A row from the first step to the last: striped grey is noise, the modality's colour is clean.
function drawStrip(group, modality, name, top, levels, given) {
    const { left, side } = SQUARE;
    const width = side / levels.length;
    const cells = levels.map((level, index) => svg("rect", {
        x: (left + index * width).toFixed(2), y: top, width: (width + 0.3).toFixed(2), height: STRIPS.height,
        "fill-opacity": (1 - 0.9 * level).toFixed(3),
    }));
    const note = given ? (given.masked ? t("in a mask") : t("given {strength}", given)) : "";
    group.setAttribute("class", `mf-strip mf-${modality}`);
    group.replaceChildren(
        svg("rect", { class: "mf-strip-back", x: left, y: top, width: side, height: STRIPS.height }), ...cells,
        svg("text", { x: left - 6, y: top + 9, "text-anchor": "end" }, name),
        svg("text", { x: left + side + 6, y: top + 9 }, note));
}

function pathThrough(points) {
    return points.map((levels, index) => `${index ? "L" : "M"}${toPicture(levels).map((v) => v.toFixed(2)).join(" ")}`).join("");
}

function trackDrag(element, onDrag, onEnd) {
    const levels = (event) => {
        const [x, y] = localPosition(event, element);
        const scale = Math.min(element.clientWidth / SIZE.width, element.clientHeight / SIZE.height);
        const margin = [(element.clientWidth - SIZE.width * scale) / 2, (element.clientHeight - SIZE.height * scale) / 2];
        return toLevels([(x - margin[0]) / scale, (y - margin[1]) / scale]);
    };
    element.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        const [x, y] = levels(event);
        if (x < -0.05 || x > 1.05 || y < -0.05 || y > 1.05) return;
        element.setPointerCapture(event.pointerId);
        element.focus({ preventScroll: true });
        onDrag(x, y);
    });
    element.addEventListener("pointermove", (event) => {
        if (element.hasPointerCapture(event.pointerId)) onDrag(...levels(event));
    });
    // However it ends, taken by the system or not: what was dragged so far stays, as one change.
    for (const type of ["pointerup", "pointercancel"]) {
        element.addEventListener(type, (event) => {
            if (!element.hasPointerCapture(event.pointerId)) return;
            element.releasePointerCapture(event.pointerId);
            onEnd();
        });
    }
}
