// The viewer: opens as the picture showed the scene. What the outputs give changes when a view is used, not before.

import { fetchImage, inputValue, noteChange, saveSetting, setInput, setting, uploadPicture } from "../host.js";
import { distance, fovY } from "../maths/camera.js";
import { loadTables, table } from "../maths/colour_maps.js";
import { glbFile, plyFile } from "../parts/cloud_files.js";
import { cloudModel } from "../parts/cloud_model.js";
import { cloudView } from "../parts/cloud_view.js";
import { batchSelector, button, choice, el, numberField, saveFile, shield, slider, stateText, toggle } from "../parts/elements.js";
import { measure } from "../parts/measure.js";
import { orbited } from "../parts/orbit_controls.js";
import { depthColours, normalColours } from "../parts/point_colours.js";
import { countOf, keptPoints, pointAt } from "../parts/points.js";
import { resultLoader } from "../parts/result_loader.js";
import { t } from "../parts/texts.js";

const colourings = () => ({ picture: t("Picture"), depth: t("Depth"), normal: t("Normal") });
const backgrounds = () => ({ dark: t("Dark"), grey: t("Grey"), white: t("White") });
// Saved with the workflow. far: in median depths, 0 is off; camera: null is the source's; fov: top to bottom, degrees.
const DEFAULTS = {
    colours: "picture", pointSize: 1.5, edge: 0.04, far: 0, camera: null, fov: null,
    background: "dark", axes: false, grid: false, frustum: false,
};
const FOLDER = "modality_forcing";
const DEGREES_PER_SECOND = 24; // of the turntable
const SQUARE = { from: (position) => (position / 100) ** 2, to: (value) => 100 * Math.sqrt(value) };

export function cloudWidget(node) {
    const hint = t("Drag to orbit, Shift, right or two-finger drag to pan, wheel or pinch to approach, W A S D Q E to fly, arrows to turn, R for the source view");
    const settings = { ...DEFAULTS, ...setting(node, "viewer") };
    let record = null; // {items, index} of the node's last run
    let view = null; // while the widget runs
    let shown = null; // {model, kept, colours}
    let painted; // settles when the colours that were asked for last are those of the view
    let turning = 0;
    let measuring = false;
    let message = "";

    const state = stateText();
    const batch = batchSelector(choose);
    const ruler = measure();
    const place = el("div", { class: "mf-view", title: hint }, ruler.element, state.element);
    const readout = el("div", { class: "mf-readout", role: "status" });
    const loader = resultLoader(fetchImage, state, show, forget);
    const controls = {
        colours: choice(t("Colour"), t("Colour the points by"), colourings(), (value) => change({ colours: value }, true)),
        pointSize: slider(t("Size"), t("Size of the points, in their spacing"), { min: 0.5, max: 6, step: 0.1, format: (v) => v.toFixed(1) },
            (value, finished) => change({ pointSize: value }, finished)),
        edge: slider(t("Edges"), t("Hides points where depth jumps by more than this share of it, as the nodes cut; the left end shows all"),
            { min: 0, max: 100, step: 0.5, scale: SQUARE, format: (v) => (v ? v.toFixed(3) : t("off")) },
            (value, finished) => change({ edge: Number(value.toFixed(4)) }, finished)),
        far: slider(t("Far"), t("Hides points beyond this depth"), { min: 0, max: 100, step: 1, scale: { from: farOf, to: placeOf }, format: farText },
            (value, finished) => change({ far: value }, finished)),
        fov: slider(t("Lens"), t("Field of view from top to bottom, in degrees"), { min: 10, max: 120, step: 1, format: (v) => `${Math.round(v)}°` },
            (value, finished) => change({ fov: value }, finished)),
        background: choice(t("Background"), t("Behind the scene"), backgrounds(), (value) => change({ background: value }, true)),
        axes: toggle(t("Axes"), t("x red, y (down) green, z (ahead) blue, where the camera turns"), (on) => change({ axes: on }, true)),
        grid: toggle(t("Grid"), t("A level grid below the source camera"), (on) => change({ grid: on }, true)),
        frustum: toggle(t("Camera"), t("The source camera and what it saw"), (on) => change({ frustum: on }, true)),
    };
    const turntable = toggle(t("Turntable"), t("Turns around the scene until it is touched"), setTurning);
    const more = toggle(t("More"), t("Lens, background, guides, turntable and downloads"), setMore);
    const measureButton = toggle(t("Measure"), t("Click one point for its depth, two for the distance between them"), setMeasuring);
    const known = numberField(t("True length"), t("What the measured length is in truth, in metres or any unit: goes to the x_px, y_px and distance outputs"), 0, setKnown);
    const unpick = button(t("Forget"), t("Take the stated length back"), () => write("picked", "", t("The stated length is forgotten")));
    const discard = button(t("Discard"), t("Give the source view again: no used view, no screenshot"), discardView);
    const moreRow = el("div", { class: "mf-row", hidden: true }, controls.fov.element, controls.background.element, controls.axes.element,
        controls.grid.element, controls.frustum.element, turntable.element, el("span", { class: "mf-group", role: "group", "aria-label": t("Download") },
            t("Download"), button("PNG", t("What is seen, without background"), () => download("png")),
            button("PLY", t("The points that are shown"), () => download("ply")), button("GLB", t("The points or triangles that are shown"), () => download("glb"))));
    const measureRow = el("div", { class: "mf-row", hidden: true }, known.element, unpick);
    const element = shield(el("div", { class: "mf-widget" },
        el("div", { class: "mf-row" }, controls.colours.element, controls.pointSize.element, controls.edge.element, controls.far.element, more.element),
        moreRow, place, measureRow,
        el("div", { class: "mf-row" }, button(t("Use this view"), t("The outputs give this camera and what it sees, on the next run"), useView),
            discard, button(t("Source view"), t("Back to the camera of the picture (key R)"), reset), measureButton.element,
            button(t("Screenshot"), t("The image output is this picture as shown, on the next run"), screenshot),
            button(t("Full screen"), t("Esc comes back"), () => element.requestFullscreen?.()),
            el("span", { class: "mf-spring" }), batch.element),
        readout));
    showSettings();

    function start() {
        view = cloudView({
            hint, settings: () => settings, camera, setCamera, reset, clicked, pivoted,
            lost: () => state.show("failed", t("The graphics driver took the picture away.\nIt comes back when it can.")),
            found: state.hide,
            drawn: (clip, viewport) => ruler.draw(clip, viewport),
        });
        place.prepend(view.element);
    }

    function stop() {
        setTurning(false);
        batch.stop();
        loader.dispose();
        view?.dispose();
        view = shown = null;
    }

    function result(next) {
        if (next && next === record && shown) return;
        record = next;
        message = "";
        if (!record) {
            batch.set(0, 0);
            return loader.clear();
        }
        return choose(record.index);
    }

    function choose(index) {
        record.index = index;
        batch.set(index, record.items[0].count);
        return loader.open(record.items[0].result, index);
    }

    async function show(image) {
        ruler.clear();
        const model = cloudModel(image);
        if (!model) {
            forget();
            return state.show("failed", t("This scene has no valid point."));
        }
        shown = { model, kind: image.kind, kept: keptPoints(model, filter(model)), colours: model.colors };
        if (settings.colours !== "picture") shown.colours = await coloursOf(model);
        if (shown?.model !== model || !view) return; // overtaken
        view.load(model, shown.colours);
        view.keep(shown.kept);
        controls.colours.allow("normal", Boolean(model.pixels || model.faces));
        showSettings();
    }

    function forget() {
        shown = null;
        ruler.clear();
        showReadout();
    }

    async function coloursOf(model) {
        if (settings.colours === "depth") return depthColours(model, table(await loadTables(), "turbo"));
        if (settings.colours === "normal" && (model.pixels || model.faces)) return normalColours(model);
        return model.colors;
    }

    function change(values, finished) {
        Object.assign(settings, values);
        saveSetting(node, "viewer", { ...settings });
        if (finished) noteChange();
        apply(values);
    }

    // To what is shown.
    async function apply(values) {
        showSettings();
        if (!shown) return;
        const { model } = shown;
        if ("edge" in values || "far" in values) {
            shown.kept = keptPoints(model, filter(model));
            view.keep(shown.kept);
            showReadout();
        }
        if ("colours" in values) await (painted = paint(model));
        view?.moved();
    }

    async function paint(model) {
        const asked = settings.colours;
        const colours = await coloursOf(model);
        if (shown?.model === model && settings.colours === asked) view.paint(shown.colours = colours);
    }

    function showSettings() {
        for (const name of ["colours", "pointSize", "edge", "far", "background", "axes", "grid", "frustum"]) controls[name].set(settings[name]);
        controls.fov.set(settings.fov ?? (shown ? fovY(shown.model.camera.k) : 50));
        place.dataset.background = settings.background;
        showReadout();
    }

    function filter(model) {
        return { edge: settings.edge, far: Math.fround(settings.far * model.median) };
    }

    // The slider is even in the logarithm of depth; its right end is off.
    function farOf(position) {
        return position < 100 && shown ? (shown.model.near / shown.model.median) * (shown.model.far / shown.model.near) ** (position / 100) : 0;
    }

    function placeOf(far) {
        if (!far || !shown) return 100;
        const { near, median, far: farthest } = shown.model;
        const span = Math.log(farthest / near);
        return span > 0 ? Math.min(99, Math.max(0, (100 * Math.log((far * median) / near)) / span)) : 99;
    }

    function farText(far) {
        return far ? number(far * (shown?.model.median ?? 1)) : t("off");
    }

    function camera() {
        return settings.camera ?? home();
    }

    // The connected camera, or the source's.
    function home() {
        const given = record?.items[0].camera;
        if (given) return { pivot: given.pivot, distance: given.distance, yaw: given.yaw_deg, pitch: given.pitch_deg };
        const depth = shown?.model.median ?? 1;
        return { pivot: [0, 0, depth], distance: depth, yaw: 0, pitch: 0 };
    }

    function setCamera(value, finished) {
        if (turning) setTurning(false);
        settings.camera = value;
        if (!finished) return;
        saveSetting(node, "viewer", { ...settings });
        noteChange();
        showReadout();
    }

    function reset() {
        message = "";
        change({ camera: null, fov: null }, true);
    }

    // The camera keeps its direction and looks at the point.
    function pivoted(point) {
        if (!measuring) change({ camera: { ...camera(), pivot: pointAt(shown.model, point) } }, true);
    }

    function setTurning(on) {
        cancelAnimationFrame(turning);
        turning = 0;
        turntable.set(on);
        if (!on) return;
        const turn = (before) => (now) => {
            settings.camera = orbited(camera(), (DEGREES_PER_SECOND * Math.min(100, now - before)) / 1000, 0);
            view?.moved();
            turning = requestAnimationFrame(turn(now));
        };
        turning = requestAnimationFrame(turn(performance.now()));
    }

    function setMore(on) {
        more.set(on);
        moreRow.hidden = !on;
    }

    function clicked(point) {
        if (!measuring) return;
        ruler.add({ at: pointAt(shown.model, point), pixel: pixelOf(point) });
        known.set("");
        showReadout();
    }

    function pixelOf(point) {
        const { pixels, camera: { width } } = shown.model;
        return pixels && [pixels[point] % width, Math.floor(pixels[point] / width)];
    }

    function setMeasuring(on) {
        measuring = on;
        measureButton.set(on);
        measureRow.hidden = !on;
        if (!on) ruler.clear();
        place.classList.toggle("mf-picking", on);
        showReadout();
        view?.moved();
    }

    function setKnown(length) {
        const pixels = ruler.points().map(({ pixel }) => pixel);
        if (!pixels.length || pixels.includes(null)) {
            message = pixels.length ? t("Only points of a geometry can be handed on") : t("Click a point first");
            return showReadout();
        }
        write("picked", JSON.stringify({ pixels, distance: length, index: record.index }), t("handed to the outputs x_px, y_px and distance"));
    }

    function usedView() {
        const { pivot, distance: away, yaw, pitch } = camera();
        const here = { pivot, distance: away, yaw, pitch, fov_y_deg: settings.fov, edge: settings.edge, far: settings.far };
        return settings.camera || settings.fov ? JSON.stringify(here) : "";
    }

    function useView() {
        setInput(node, "screenshot", "");
        write("view", usedView(), usedView() ? t("This view is what the outputs give on the next run") : t("The outputs give the source view"));
    }

    function discardView() {
        setInput(node, "screenshot", "");
        write("view", "", t("The outputs give the source view"));
    }

    async function screenshot() {
        if (!shown) return;
        const { scene } = shown.model;
        const { index } = record;
        try {
            await painted;
            const name = await uploadPicture(await pictureBlob(), `cloud_${scene}_${index}_${Date.now()}.png`, FOLDER);
            setInput(node, "view", usedView());
            write("screenshot", name, t("Screenshot taken: it is the image on the next run"));
        } catch (error) {
            message = t("The screenshot failed: {error}", { error: error.message });
            showReadout();
        }
    }

    function pictureBlob() {
        const { width, height, pixels } = view.picture();
        const surface = el("canvas", { width, height });
        surface.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
        return new Promise((resolve) => { surface.toBlob(resolve, "image/png"); });
    }

    async function download(kind) {
        if (!shown) return;
        const { model, kept, colours } = shown;
        const total = countOf(kept);
        const make = { png: pictureBlob, ply: () => plyFile(model, kept, colours, total), glb: () => glbFile(model, kept, colours, total) };
        saveFile(await make[kind](), `scene_${model.scene}.${kind}`);
    }

    // One of the inputs that nobody types into.
    function write(input, value, text) {
        setInput(node, input, value);
        noteChange();
        message = text;
        showReadout();
    }

    function showReadout() {
        const [view, taken, picked] = ["view", "screenshot", "picked"].map((name) => inputValue(node, name).value);
        discard.hidden = !view && !taken;
        unpick.hidden = !picked;
        if (!shown) {
            readout.textContent = message;
            return;
        }
        const [n, all] = [countOf(shown.kept), total(shown)].map(grouped);
        const parts = [t("{n} of {all} points", { n, all })];
        if (measuring) parts.push(measured(ruler.points()));
        if (taken && !taken.includes(`cloud_${shown.model.scene}_`)) parts.push(t("the screenshot is of another scene and is not used"));
        else if (message) parts.push(message);
        else if (view && view !== usedView()) parts.push(t("the outputs give the view used last, not this one"));
        readout.textContent = parts.join(" · ");
    }

    function restore() {
        Object.assign(settings, DEFAULTS, setting(node, "viewer"));
        apply({ edge: settings.edge, colours: settings.colours });
    }

    return { element, minHeight: 420, minWidth: 460, start, stop, restore, result, retry: loader.retry };
}

function total({ model, kind }) {
    return kind === "depth" ? model.camera.width * model.camera.height : model.count;
}

function measured(points) {
    if (points.length === 0) return t("click the first point");
    const [first, second] = points.map(({ at }) => at);
    if (!second) return `${t("depth {z}", { z: number(first[2]) })} · ${t("click the second point")}`;
    return t("distance {d} in the depth's unit", { d: number(distance(first, second)) });
}

// By a thin space, which no language takes for a decimal mark.
function grouped(count) {
    return count.toLocaleString("en").replaceAll(",", "\u202f");
}

function number(value) {
    return Number(value.toPrecision(4)).toString();
}
