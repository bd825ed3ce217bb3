// The point-cloud preview: opens as the picture showed it; camera, sliders and colours change here alone.

import { inputValue, noteChange, saveSetting, setInput, setting, uploadPicture } from "../host.js";
import { fitScale, orbitPose, viewMatrix } from "../maths/camera.js";
import { colourBytes, loadTables, table } from "../maths/colour_maps.js";
import { CLIP_PERCENT, mapper, measuredRange, sortedDepth } from "../maths/depth_values.js";
import { batchSelector, button, choice, el, localPosition, onDemand, shield, slider, stateText } from "../parts/elements.js";
import { cloudRenderer } from "../parts/cloud_renderer.js";
import { measure } from "../parts/measure.js";
import { orbitControls } from "../parts/orbit_controls.js";
import { countKept, depthSpans, pick, pointAt } from "../parts/points.js";
import { movingDetail } from "../parts/moving_detail.js";
import { resultLoader } from "../parts/result_loader.js";

const COLOURS = { picture: "Picture", depth: "Depth", normal: "Normal" };
const DEFAULTS = { colours: "picture", pointSize: 1.5, edge: 0.04, far: 0, camera: null };
const FOLDER = "modality_forcing";
const PICK_PIXELS = 6;
const HINT = "Drag to orbit, Shift or right drag to pan, wheel to approach, W A S D Q E to fly, arrows to turn, R for the source view";

export function cloudWidget(node) {
    const settings = { ...DEFAULTS, ...setting(node, "cloud") };
    let renderer = null;
    let shown = null; // {geometry, spans, near, median, far, range, kept}
    let measuring = false;
    let message = "";

    const state = stateText();
    const batch = batchSelector((index) => loader.choose(index));
    const canvas = el("canvas", { tabindex: 0, "aria-label": `Point cloud. ${HINT}.` });
    const ruler = measure();
    const frame = el("div", { class: "mf-frame", title: "What the screenshot takes" });
    const view = el("div", { class: "mf-view", title: HINT }, canvas, ruler.element, frame, state.element);
    const readout = el("div", { class: "mf-readout", role: "status" });
    const controls = {
        colours: choice("Colour", "Colour the points by", COLOURS, (value) => change({ colours: value })),
        pointSize: slider("Size", "Size of the points, in their spacing", { min: 0.5, max: 6, step: 0.1, format: (v) => v.toFixed(1) },
            (value) => change({ pointSize: value })),
        edge: slider("Edges", "Hides points where depth jumps by more than this share of it; 0 shows all",
            { min: 0, max: 0.2, step: 0.005, format: (v) => (v ? v.toFixed(3) : "off") }, (value) => change({ edge: value })),
        far: slider("Far", "Hides points beyond this depth", { min: 0, max: 100, step: 1, format: (v) => (v < 100 ? number(farOf(v)) : "off") },
            (value) => change({ far: value < 100 ? farOf(value) : 0 })),
    };
    const measureButton = button("Measure", "Distance between two clicked points", () => setMeasuring(!measuring));
    const discard = button("Discard", "Give the picture of the geometry again instead of the screenshot", () => setScreenshot(""));
    const element = shield(el("div", { class: "mf-widget" },
        el("div", { class: "mf-row" }, controls.colours.element, controls.pointSize.element, controls.edge.element, controls.far.element),
        view,
        el("div", { class: "mf-row" }, button("Source view", "Back to the camera of the picture (key R)", reset), measureButton,
            button("Screenshot", "Becomes the node's image on the next run", screenshot), discard,
            el("span", { class: "mf-spring" }), batch.element),
        readout));
    const loader = resultLoader(node, { state, batch }, show);
    const drawing = onDemand(draw);
    const detail = movingDetail(drawing.request);
    const observer = new ResizeObserver(drawing.request);
    observer.observe(canvas);
    const orbit = orbitControls(canvas, {
        get: camera,
        set: setCamera,
        unit: () => shown?.median ?? 1,
        perPixel: () => (shown ? 1 / (shown.geometry.k[0] * shown.geometry.width * fitScale(shown.geometry, viewport())) : 0),
        click: (event) => measuring && clickPoint(event, ruler.add),
        reset,
    });
    canvas.addEventListener("dblclick", (event) => measuring || clickPoint(event, setPivot));
    canvas.addEventListener("webglcontextlost", (event) => {
        event.preventDefault();
        if (renderer) state.show("failed", "The graphics driver took the picture away.\nIt comes back when it can.");
    });
    canvas.addEventListener("webglcontextrestored", () => { renderer = null; if (shown) show(shown.geometry); });
    showSettings();
    loader.restore();

    async function show(geometry) {
        const sorted = sortedDepth(geometry.depth);
        ruler.clear();
        if (sorted.length === 0) {
            shown = null;
            return state.show("failed", "This geometry has no valid point.");
        }
        try {
            const ramp = colourBytes(table(await loadTables(), "turbo"), 256);
            const spans = depthSpans(geometry);
            renderer ??= cloudRenderer(canvas);
            renderer.load(geometry, spans, ramp);
            const range = measuredRange(sorted, "disparity", mapper("disparity"), CLIP_PERCENT).reverse();
            const [near, median, far] = [0, sorted.length >> 1, sorted.length - 1].map((rank) => sorted[rank]);
            shown = { geometry, spans, range, near, median, far };
        } catch (error) {
            shown = null;
            return state.show("failed", `Could not show this: ${error.message}`);
        }
        state.hide();
        showSettings();
        count();
        drawing.request();
    }

    function change(values) {
        Object.assign(settings, values);
        saveSetting(node, "cloud", { ...settings });
        count();
        drawing.request();
    }

    function showSettings() {
        for (const name of ["colours", "pointSize", "edge"]) controls[name].set(settings[name]);
        controls.far.set(shown && settings.far ? shareOf(settings.far) : 100);
        discard.hidden = !inputValue(node, "screenshot").value;
    }

    // The slider is even in the logarithm of depth.
    function farOf(share) {
        return shown ? shown.near * (shown.far / shown.near) ** (share / 100) : 0;
    }

    function shareOf(depth) {
        const span = Math.log(shown.far / shown.near);
        return span > 0 ? Math.min(99, Math.max(0, (100 * Math.log(depth / shown.near)) / span)) : 99;
    }

    function filter() {
        return { edge: settings.edge, far: settings.far };
    }

    function count() {
        if (!shown) return;
        shown.kept = countKept(shown.geometry, shown.spans, filter());
        showReadout();
    }

    function camera() {
        return settings.camera ?? sourceCamera();
    }

    function sourceCamera() {
        const depth = shown?.median ?? 1;
        return { pivot: [0, 0, depth], distance: depth, yaw: 0, pitch: 0 };
    }

    function setCamera(value, finished) {
        settings.camera = value;
        if (finished) {
            saveSetting(node, "cloud", { ...settings });
            noteChange(node);
        }
        detail.moved();
        drawing.request();
    }

    function reset() {
        setCamera(null, true);
        message = "";
        showReadout();
    }

    // The camera keeps its direction and looks at the point.
    function setPivot(point) {
        setCamera({ ...camera(), pivot: point }, true);
    }

    function viewport() {
        return { width: Math.max(1, canvas.clientWidth), height: Math.max(1, canvas.clientHeight) };
    }

    function scene() {
        const at = camera();
        return {
            view: viewMatrix(orbitPose(at)),
            near: 0.02 * Math.min(shown.near, at.distance),
            far: Math.min(shown.far, 1e4 * shown.median) + 4 * at.distance + Math.hypot(...at.pivot),
            edge: settings.edge,
            farCut: settings.far,
            pointSize: settings.pointSize,
            range: shown.range,
            colourBy: Object.keys(COLOURS).indexOf(settings.colours),
        };
    }

    function draw() {
        if (!shown || !renderer || !canvas.clientWidth) return;
        const density = window.devicePixelRatio || 1;
        const screen = viewport();
        const pixels = { width: Math.round(screen.width * density), height: Math.round(screen.height * density) };
        if (canvas.width !== pixels.width || canvas.height !== pixels.height) Object.assign(canvas, pixels);
        const current = scene();
        const began = performance.now();
        renderer.draw(current, pixels, detail.stride());
        if (!detail.moving()) {
            renderer.finish();
            detail.measured(performance.now() - began);
        }
        ruler.draw(renderer.clipOf(current, screen), screen);
        placeFrame(screen);
    }

    function placeFrame(screen) {
        const scale = fitScale(shown.geometry, screen);
        const [width, height] = [shown.geometry.width * scale, shown.geometry.height * scale];
        const box = { left: (screen.width - width) / 2, top: (screen.height - height) / 2, width, height };
        for (const [name, value] of Object.entries(box)) frame.style[name] = `${value}px`;
    }

    function clickPoint(event, use) {
        if (!shown) return;
        const place = localPosition(event, canvas);
        const clip = renderer.clipOf(scene(), viewport());
        const index = pick(shown.geometry, shown.spans, filter(), clip, viewport(), place, PICK_PIXELS);
        if (index >= 0) use(pointAt(shown.geometry, index));
        showReadout();
        drawing.request();
    }

    function setMeasuring(on) {
        measuring = on;
        if (!on) ruler.clear();
        measureButton.setAttribute("aria-pressed", on);
        view.classList.toggle("mf-picking", on);
        showReadout();
        drawing.request();
    }

    async function screenshot() {
        if (!shown) return;
        try {
            const { width, height, pixels } = renderer.picture(scene());
            drawing.request();
            const surface = el("canvas", { width, height });
            surface.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
            const blob = await new Promise((resolve) => { surface.toBlob(resolve, "image/png"); });
            setScreenshot(await uploadPicture(blob, `cloud_${Date.now()}.png`, FOLDER));
        } catch (error) {
            message = `The screenshot failed: ${error.message}`;
            showReadout();
        }
    }

    function setScreenshot(name) {
        setInput(node, "screenshot", name);
        noteChange(node);
        message = name ? "Screenshot taken: it is the image on the next run" : "The image is the geometry's own picture again";
        showSettings();
        showReadout();
    }

    function showReadout() {
        if (!shown) return;
        const all = shown.geometry.width * shown.geometry.height;
        const parts = [`${shown.kept.toLocaleString("en")} of ${all.toLocaleString("en")} points`];
        if (measuring) parts.push(measured());
        if (message) parts.push(message);
        readout.textContent = parts.join(" · ");
    }

    function measured() {
        const points = ruler.points();
        if (points.length === 0) return "click the first point";
        if (points.length === 1) return "click the second point";
        return `distance ${number(ruler.length())} in the depth's unit`;
    }

    function restore() {
        Object.assign(settings, DEFAULTS, setting(node, "cloud"));
        showSettings();
        loader.restore();
        count();
        drawing.request();
    }

    function result(files) {
        message = "";
        loader.result(files);
    }

    function dispose() {
        for (const part of [loader, drawing, detail, orbit]) part.dispose();
        observer.disconnect();
        renderer?.dispose();
        renderer = shown = null;
    }

    return { element, minHeight: 380, minWidth: 460, restore, result, dispose };
}

function number(value) {
    return Number(value.toPrecision(4)).toString();
}
