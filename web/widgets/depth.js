// The depth preview: pan, zoom, values under the pointer; range and colours change here, without running the graph.

import { fetchImage, inputValue, noteChange, saveSetting, setInput, setting } from "../host.js";
import { unproject } from "../maths/camera.js";
import { colour, colourBytes, loadTables, table } from "../maths/colour_maps.js";
import { CLIP_PERCENT, mapper, measuredRange, pictureValue, unmapper } from "../maths/depth_values.js";
import { rankedDepth, sampledDepth } from "../maths/ranks.js";
import { PALETTE, depthImage, painter } from "../parts/depth_image.js";
import { batchSelector, button, choice, el, localPosition, numberField, shield, slider, stateText, toggle } from "../parts/elements.js";
import { gestures } from "../parts/gestures.js";
import { SAMPLES, rangeControl } from "../parts/range_control.js";
import { resultLoader } from "../parts/result_loader.js";
import { t } from "../parts/texts.js";

const colourMaps = () => ({ grey: t("Grey"), magma: "Magma", turbo: "Turbo", spectral: t("Spectral") });
const mappings = () => ({ disparity: t("Disparity"), linear: t("Linear"), log: t("Log"), code: t("Model's code") });
const clip = (percent) => t("Clip {percent} %", { percent });
const ranges = () => ({ [CLIP_PERCENT]: clip(CLIP_PERCENT), 2: clip(2), 0: t("Min – max"), hand: t("By hand") });
const DEFAULTS = { colours: "grey", mapping: "disparity", nearWhite: true, range: String(CLIP_PERCENT), hand: null, split: 0.5, marks: false };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const MARKS_CLIP = 1; // percent of the uncertainties that may saturate

export function depthWidget(node) {
    const hint = t("Drag to pan, wheel or pinch to zoom, point for values, click to keep a point");
    const settings = { ...DEFAULTS, ...setting(node, "depth") };
    let record = null; // {items, index} of the node's last run
    let image = null; // while the widget runs
    let shown = null; // {geometry, ranked, domain, range}
    let other = null; // {geometry, ranked} of the second depth
    let probe = null; // {column, row, kept}: under the pointer, or kept by a click or a key
    let message = "";

    const state = stateText();
    const batch = batchSelector(choose);
    const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": `${t("Depth map")}. ${hint}. ${t("Arrow keys move the point, + and − zoom, 0 fits")}.` });
    const view = el("div", { class: "mf-view mf-probe", title: hint }, canvas, state.element);
    const readout = el("div", { class: "mf-readout", role: "status" });
    const range = rangeControl((near, far, finished) => change({ range: "hand", hand: [near, far].map(fromShare) }, finished));
    const loader = resultLoader(fetchImage, state, show, forget);
    const otherLoader = resultLoader(fetchImage, { show: () => {}, hide: () => {} }, showOther, () => { other = null; });
    const typed = (label, title, end) => numberField(label, title, 0, (value) => typeEnd(end, value));
    const controls = {
        colours: choice(t("Colours"), t("Colour map"), colourMaps(), (value) => change({ colours: value }, true)),
        mapping: choice(t("Values"),
            t("What is spread over the colours: disparity is 1 / depth and shows what is near, linear and log show what is far"),
            mappings(), (value) => change({ mapping: value, ...unhanded() }, true)),
        range: choice(t("Range"), t("Share of the pixels that may saturate at each end"), ranges(), chooseRange),
        nearWhite: toggle(t("Near white"), t("Near is the bright end, as ControlNets take it; else far is"), (on) => change({ nearWhite: on }, true)),
        marks: toggle(t("Uncertainty"), t("Mixes pink into the depth where it is uncertain"), (on) => change({ marks: on }, true)),
        split: slider(t("Compare"), t("The second depth is seen right of this place"), { min: 0, max: 1, step: 0.001, format: (v) => `${Math.round(100 * v)} %` },
            (value, finished) => change({ split: value }, finished)),
        near: typed(t("Near"), t("Depth at the near end of the colours"), 0),
        far: typed(t("Far"), t("Depth at the far end of the colours"), 1),
    };
    const known = numberField(t("This point is at"), t("How far it is in truth, in metres or any unit: goes to the x_px, y_px and distance outputs"), 0, setKnown);
    const unpick = button(t("Forget"), t("Take the stated distance back"), () => write("", t("The stated distance is forgotten")));
    const ends = el("div", { class: "mf-ends" }, controls.near.element, range.element, controls.far.element);
    const pickRow = el("div", { class: "mf-row", hidden: true }, known.element, unpick);
    const element = shield(el("div", { class: "mf-widget" },
        el("div", { class: "mf-row" }, controls.colours.element, controls.mapping.element, controls.range.element, controls.nearWhite.element,
            controls.marks.element, controls.split.element, el("span", { class: "mf-spring" }), batch.element,
            button(t("Fit"), t("Show all of it (key 0)"), () => image?.fit())),
        view, ends, pickRow, readout));
    listen();
    showSettings();

    function start() {
        image = depthImage(canvas, drawProbe);
    }

    function stop() {
        batch.stop();
        loader.dispose();
        otherLoader.dispose();
        image?.dispose();
        image = shown = other = probe = null;
    }

    function result(next) {
        if (next && next === record && shown) return;
        record = next;
        message = "";
        if (record) return choose(record.index);
        batch.set(0, 0);
        otherLoader.clear();
        loader.clear();
    }

    function choose(index) {
        const [main, second] = record.items;
        record.index = index;
        batch.set(index, main.count);
        const both = [loader.open(main.result, index)];
        if (second?.role === "compare") both.push(otherLoader.open(second.result, Math.min(index, second.count - 1)));
        else otherLoader.clear();
        return Promise.all(both);
    }

    function show(geometry) {
        const ranked = rankedDepth(geometry.depth);
        if (ranked.count === 0) {
            forget();
            return state.show("failed", t("This depth map has no valid pixel."));
        }
        shown = { geometry, ranked };
        if (geometry.uncertainty) {
            const ordered = rankedDepth(geometry.uncertainty);
            shown.marks = { values: geometry.uncertainty, top: ordered.count ? ordered.at(Math.floor((1 - MARKS_CLIP / 100) * (ordered.count - 1))) : 1 };
        }
        probe = null;
        showSettings();
        return repaint();
    }

    function showOther(geometry) {
        const ranked = rankedDepth(geometry.depth);
        other = ranked.count ? { geometry, ranked } : null;
        showSettings();
        return repaint();
    }

    function forget() {
        shown = probe = null;
        showSettings();
        showReadout();
    }

    function change(values, finished) {
        Object.assign(settings, values);
        saveSetting(node, "depth", { ...settings });
        if (finished) noteChange();
        showSettings();
        repaint();
    }

    function chooseRange(value) {
        change(value === "hand" ? { range: value, hand: shown?.range ?? null } : { range: value, hand: null }, true);
    }

    function typeEnd(end, depth) {
        if (!shown) return;
        const hand = [...shown.range];
        hand[end] = mapper(settings.mapping, shown.ranked.mean)(depth);
        change({ range: "hand", hand }, true);
    }

    function unhanded() {
        return settings.range === "hand" ? { range: DEFAULTS.range, hand: null } : {};
    }

    function showSettings() {
        for (const name of ["colours", "mapping", "range", "nearWhite", "marks", "split"]) controls[name].set(settings[name]);
        controls.split.element.hidden = !other;
        controls.marks.element.hidden = !shown?.marks;
        ends.hidden = !shown;
    }

    async function repaint() {
        const rows = table(settings.colours === "grey" ? {} : await loadTables(), settings.colours);
        if (!shown || !image) return;
        const map = mapper(settings.mapping, shown.ranked.mean);
        const measured = (percent) => measuredRange(shown.ranked, settings.mapping, map, percent);
        shown.domain = measured(settings.range === "0" ? 0 : CLIP_PERCENT);
        shown.range = settings.hand ?? measured(Number(settings.range) || 0);
        range.set(...shown.range.map(toShare));
        const depthOf = unmapper(settings.mapping, shown.ranked.mean);
        [controls.near, controls.far].forEach((field, end) => field.set(Number(depthOf(shown.range[end]).toPrecision(4))));
        shown.samples ??= sampledDepth(shown.geometry.depth, SAMPLES);
        const shares = shown.samples.map((z) => toShare(map(z)));
        range.drawHistogram(shares, (share) => css(colour(rows, pictureValue(fromShare(share), shown.range, settings.nearWhite))));
        const palette = colourBytes(rows, PALETTE);
        const painters = [painter(shown.geometry, map, shown.range, settings.nearWhite, palette, settings.marks ? shown.marks : null)];
        if (other) painters.push(otherPainter(palette));
        image.show(shown.geometry, painters, settings.split);
        showReadout();
    }

    // The second depth has a scale of its own: its range is measured in the same way, unless it was set by hand.
    function otherPainter(palette) {
        const map = mapper(settings.mapping, other.ranked.mean);
        const own = settings.hand ?? measuredRange(other.ranked, settings.mapping, map, Number(settings.range) || 0);
        return painter(other.geometry, map, own, settings.nearWhite, palette, null);
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
        gestures(canvas, {
            drag: (dx, dy) => image?.pan(dx, dy),
            pinch: (factor, dx, dy, middle) => {
                image?.pan(dx, dy);
                image?.zoomBy(factor, middle);
            },
            click: (event) => setProbe(pixelAt(event), true),
        });
        canvas.addEventListener("pointermove", (event) => probe?.kept || setProbe(pixelAt(event), false));
        canvas.addEventListener("pointerleave", () => probe?.kept || setProbe(null, false));
        canvas.addEventListener("wheel", (event) => {
            event.preventDefault();
            image?.zoomBy(Math.exp(-event.deltaY / 400), localPosition(event, canvas));
        }, { passive: false });
        canvas.addEventListener("dblclick", () => image?.fit());
        canvas.addEventListener("keydown", press);
    }

    function pixelAt(event) {
        return shown && image ? image.pixelAt(localPosition(event, canvas)) : null;
    }

    function press(event) {
        if (!shown || event.ctrlKey || event.metaKey || event.altKey) return;
        const { width, height } = shown.geometry;
        const zooms = { "+": 1.25, "=": 1.25, "-": 0.8 };
        if (ARROWS[event.key]) {
            const by = ARROWS[event.key].map((value) => value * (event.shiftKey ? 10 : 1));
            const from = probe ?? { column: width >> 1, row: height >> 1 };
            const clamp = (value, size) => Math.min(size - 1, Math.max(0, value));
            setProbe({ column: clamp(from.column + by[0], width), row: clamp(from.row + by[1], height) }, true);
        } else if (zooms[event.key]) image.zoomBy(zooms[event.key], probe ? image.screenOf(probe) : undefined);
        else if (event.key === "0") image.fit();
        else if (event.key === "Escape" && probe) setProbe(null, false);
        else return;
        event.preventDefault();
        event.stopPropagation();
    }

    // A click on the kept point lets it go.
    function setProbe(pixel, keep) {
        const same = probe?.kept && keep && pixel && probe.column === pixel.column && probe.row === pixel.row;
        const drawn = probe?.kept || keep;
        probe = same || !pixel ? null : { ...pixel, kept: keep };
        if (drawn) {
            known.set("");
            image?.redraw();
        }
        showReadout();
    }

    function setKnown(distance) {
        if (!probe?.kept) return;
        const { geometry: { width, depth } } = shown;
        if (!(depth[probe.row * width + probe.column] > 0)) {
            message = t("there is no depth at this point");
            return showReadout();
        }
        const pick = { pixels: [[probe.column, probe.row]], distance, index: record.index };
        write(JSON.stringify(pick), t("handed to the outputs x_px, y_px and distance"));
    }

    function write(picked, text) {
        setInput(node, "picked", picked);
        noteChange();
        message = text;
        showReadout();
    }

    function showReadout() {
        unpick.hidden = !inputValue(node, "picked").value;
        pickRow.hidden = !shown || (!probe?.kept && unpick.hidden);
        known.element.hidden = !probe?.kept;
        const text = shown ? (probe ? describe(shown.geometry, other?.geometry, probe) : summary(shown)) : "";
        readout.textContent = message ? `${text} · ${message}` : text;
    }

    function drawProbe(context) {
        drawSplit(context);
        if (!probe?.kept) return;
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

    function drawSplit(context) {
        if (!other) return;
        context.fillStyle = "#fff";
        context.fillRect(settings.split * canvas.clientWidth - 0.5, 0, 1, canvas.clientHeight);
    }

    function restore() {
        Object.assign(settings, DEFAULTS, setting(node, "depth"));
        showSettings();
        repaint();
    }

    function retry() {
        loader.retry();
        otherLoader.retry();
    }

    return { element, minHeight: 340, minWidth: 400, start, stop, restore, result, retry };
}

function describe(geometry, other, { column, row }) {
    const { width, height, depth, uncertainty, k } = geometry;
    const z = depth[row * width + column];
    const place = `x ${column}, y ${row}`;
    const parts = [place];
    if (z > 0) parts.push(t("depth {z}", { z: number(z) }), t("position {xyz}", { xyz: `(${unproject(column, row, z, k, width, height).map(number).join(", ")})` }));
    else parts.push(t("no depth here"));
    if (uncertainty) parts.push(t("uncertainty {u}", { u: number(uncertainty[row * width + column]) }));
    if (other) {
        const at = (position, size, own) => Math.floor(((position + 0.5) / size) * own);
        const second = other.depth[at(row, height, other.height) * other.width + at(column, width, other.width)];
        parts.push(second > 0 ? t("compared with {z}", { z: number(second) }) : t("no depth in the other"));
    }
    return parts.join(" · ");
}

function summary({ geometry: { width, height }, ranked }) {
    const share = ranked.count / (width * height);
    const holes = share < 1 ? ` · ${t("{percent} % without depth", { percent: (100 - 100 * share).toFixed(1) })}` : "";
    const [near, far] = [0, ranked.count - 1].map((rank) => number(ranked.at(rank)));
    return `${width} × ${height} · ${t("depth {near} to {far}", { near, far })}${holes}`;
}

// Four significant digits, with a true minus sign.
function number(value) {
    return Number(value.toPrecision(4)).toString().replace("-", "−");
}

function css([r, g, b]) {
    return `rgb(${Math.round(255 * r)} ${Math.round(255 * g)} ${Math.round(255 * b)})`;
}
