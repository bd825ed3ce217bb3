// The depth preview: pan, zoom, values under the pointer; range and colours change here, without running the graph.

import { saveSetting, setting } from "../host.js";
import { unproject } from "../maths/camera.js";
import { COLOUR_MAPS, colour, colourBytes, loadTables, table } from "../maths/colour_maps.js";
import { CLIP_PERCENT, MAPPINGS, mapper, meanDepth, measuredRange, pictureValue, sortedDepth } from "../maths/depth_values.js";
import { depthImage } from "../parts/depth_image.js";
import { batchSelector, button, choice, el, localPosition, shield, stateText } from "../parts/elements.js";
import { rangeControl, sample } from "../parts/range_control.js";
import { resultLoader } from "../parts/result_loader.js";

const RANGES = { [CLIP_PERCENT]: `Clip ${CLIP_PERCENT} %`, 2: "Clip 2 %", 0: "Min – max", hand: "By hand" };
const DEFAULTS = { colours: "grey", mapping: "disparity", nearWhite: true, range: String(CLIP_PERCENT), hand: null };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HINT = "Drag to pan, wheel to zoom, point for values";

export function depthWidget(node) {
    const settings = { ...DEFAULTS, ...setting(node, "depth") };
    let shown = null; // {geometry, sorted, mean, domain, range}
    let probe = null; // {column, row, byKey}

    const state = stateText();
    const batch = batchSelector((index) => loader.choose(index));
    const canvas = el("canvas", { tabindex: 0, "aria-label": `Depth map. ${HINT}; arrow keys move the probe, + and − zoom, 0 fits.` });
    const view = el("div", { class: "mf-view mf-probe" }, canvas, state.element);
    const readout = el("div", { class: "mf-readout", role: "status" });
    const image = depthImage(canvas, drawProbe);
    const range = rangeControl((near, far) => change({ range: "hand", hand: [near, far].map(fromShare) }));
    const controls = {
        colours: choice("Colours", "Colour map", COLOUR_MAPS, (value) => change({ colours: value })),
        mapping: choice("Values", "What is spread over the colours", MAPPINGS, (value) => change({ mapping: value, ...unhanded() })),
        range: choice("Range", "Share of the pixels that may saturate at each end", RANGES, chooseRange),
        near: button("Near white", "Near is the bright end, as ControlNets take it", () => change({ nearWhite: !settings.nearWhite })),
    };
    const element = shield(el("div", { class: "mf-widget" },
        el("div", { class: "mf-row" }, controls.colours.element, controls.mapping.element, controls.range.element, controls.near,
            el("span", { class: "mf-spring" }), batch.element, button("Fit", "Show all of it (key 0)", image.fit)),
        view, range.element, readout));
    const loader = resultLoader(node, { state, batch }, show);
    listen();
    showSettings();
    loader.restore();

    function show(geometry) {
        const sorted = sortedDepth(geometry.depth);
        if (sorted.length === 0) {
            shown = null;
            return state.show("failed", "This depth map has no valid pixel.");
        }
        shown = { geometry, sorted, mean: meanDepth(geometry.depth) };
        probe = null;
        state.hide();
        repaint();
    }

    function change(values) {
        Object.assign(settings, values);
        saveSetting(node, "depth", { ...settings });
        showSettings();
        repaint();
    }

    function chooseRange(value) {
        change(value === "hand" ? { range: value, hand: shown?.range ?? null } : { range: value, hand: null });
    }

    function unhanded() {
        return settings.range === "hand" ? { range: DEFAULTS.range, hand: null } : {};
    }

    function showSettings() {
        for (const name of ["colours", "mapping", "range"]) controls[name].set(settings[name]);
        controls.near.setAttribute("aria-pressed", settings.nearWhite);
        controls.near.textContent = settings.nearWhite ? "Near white" : "Far white";
    }

    async function repaint() {
        const rows = table(settings.colours === "grey" ? {} : await loadTables(), settings.colours);
        if (!shown) return;
        const map = mapper(settings.mapping, shown.mean);
        const measured = (percent) => measuredRange(shown.sorted, settings.mapping, map, percent);
        shown.domain = measured(settings.range === "0" ? 0 : CLIP_PERCENT);
        shown.range = settings.hand ?? measured(Number(settings.range) || 0);
        range.set(...shown.range.map(toShare));
        const shares = sample(shown.sorted).map((z) => toShare(map(z)));
        range.drawHistogram(shares, (share) => css(colour(rows, pictureValue(fromShare(share), shown.range, settings.nearWhite))));
        image.paint(shown.geometry, map, shown.range, settings.nearWhite, colourBytes(rows, image.colours));
        showReadout();
    }

    function toShare(value) {
        const [near, far] = shown.domain;
        return near === far ? 0.5 : (value - near) / (far - near);
    }

    function fromShare(share) {
        const [near, far] = shown?.domain ?? [0, 1];
        return near + share * (far - near);
    }

    function listen() {
        canvas.addEventListener("pointerdown", (event) => {
            canvas.setPointerCapture(event.pointerId);
            canvas.focus({ preventScroll: true });
        });
        canvas.addEventListener("pointermove", (event) => {
            const [x, y] = localPosition(event, canvas);
            if (event.buttons) {
                const scale = canvas.clientWidth / canvas.getBoundingClientRect().width;
                image.pan(event.movementX * scale, event.movementY * scale);
            }
            setProbe(image.pixelAt([x, y]));
        });
        canvas.addEventListener("pointerleave", () => probe?.byKey || setProbe(null));
        canvas.addEventListener("wheel", (event) => {
            event.preventDefault();
            image.zoomBy(Math.exp(-event.deltaY / 400), localPosition(event, canvas));
        }, { passive: false });
        canvas.addEventListener("dblclick", image.fit);
        canvas.addEventListener("keydown", press);
    }

    function press(event) {
        if (!shown || event.ctrlKey || event.metaKey || event.altKey) return;
        const { width, height } = shown.geometry;
        const zooms = { "+": 1.25, "=": 1.25, "-": 0.8 };
        if (ARROWS[event.key]) {
            const by = ARROWS[event.key].map((value) => value * (event.shiftKey ? 10 : 1));
            const from = probe ?? { column: width >> 1, row: height >> 1 };
            const clamp = (value, size) => Math.min(size - 1, Math.max(0, value));
            setProbe({ column: clamp(from.column + by[0], width), row: clamp(from.row + by[1], height), byKey: true });
        } else if (zooms[event.key]) image.zoomBy(zooms[event.key], probe ? image.screenOf(probe) : undefined);
        else if (event.key === "0") image.fit();
        else return;
        event.preventDefault();
        event.stopPropagation();
    }

    function setProbe(pixel) {
        const drawn = probe?.byKey || pixel?.byKey;
        probe = pixel;
        showReadout();
        if (drawn) image.redraw();
    }

    function showReadout() {
        readout.textContent = shown ? (probe ? describe(shown.geometry, probe) : summary(shown)) : "";
    }

    function drawProbe(context) {
        if (!probe?.byKey) return;
        const [x, y] = image.screenOf(probe);
        for (const [width, style] of [[3, "#000"], [1, "#fff"]]) {
            Object.assign(context, { lineWidth: width, strokeStyle: style });
            context.beginPath();
            for (const [dx, dy] of Object.values(ARROWS)) {
                context.moveTo(x + 4 * dx, y + 4 * dy);
                context.lineTo(x + 11 * dx, y + 11 * dy);
            }
            context.stroke();
        }
    }

    function restore() {
        Object.assign(settings, DEFAULTS, setting(node, "depth"));
        showSettings();
        loader.restore();
        repaint();
    }

    function dispose() {
        loader.dispose();
        image.dispose();
        shown = null;
    }

    return { element, minHeight: 300, minWidth: 400, restore, result: loader.result, dispose };
}

function describe({ width, height, depth, k }, { column, row }) {
    const z = depth[row * width + column];
    const place = `x ${column}, y ${row}`;
    if (!(z > 0)) return `${place} · no depth here`;
    const position = unproject(column, row, z, k, width, height).map(number).join(", ");
    return `${place} · depth ${number(z)} · position (${position})`;
}

function summary({ geometry: { width, height }, sorted }) {
    const share = sorted.length / (width * height);
    const holes = share < 1 ? ` · ${(100 - 100 * share).toFixed(1)} % without depth` : "";
    return `${width} × ${height} · depth ${number(sorted[0])} to ${number(sorted[sorted.length - 1])}${holes}`;
}

// Four significant digits, with a true minus sign.
function number(value) {
    return Number(value.toPrecision(4)).toString().replace("-", "−");
}

function css([r, g, b]) {
    return `rgb(${Math.round(255 * r)} ${Math.round(255 * g)} ${Math.round(255 * b)})`;
}
