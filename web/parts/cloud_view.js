// The picture of a cloud from a camera that hands move: canvas, renderer, guides. Made when the widget starts, disposed
// when it stops, since a released WebGL context cannot be taken back.

import { fitScale, orbitPose, viewMatrix, withFovY } from "../maths/camera.js";
import { cloudRenderer } from "./cloud_renderer.js";
import { el, localPosition, onDemand } from "./elements.js";
import { axisLines, frustumLines, gridLines, guides } from "./guides.js";
import { movingDetail } from "./moving_detail.js";
import { orbitControls } from "./orbit_controls.js";
import { pick } from "./points.js";
import { colourWords, softwarePoints } from "./software_points.js";
import { t } from "./texts.js";

const PICK_PIXELS = 6;
const FLOOR = 1.2; // the grid's height below the source camera, in median depths: about that of a standing person

// host: {hint, settings(), camera(), setCamera(camera, finished), reset(), clicked(point), pivoted(point), lost(), found(),
// drawn(clip, viewport)}; settings: see widgets/cloud.js. Returns {element, load, paint, keep, moved, picture, dispose}.
export function cloudView(host) {
    const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": `${t("Scene")}. ${host.hint}.` });
    const moving = el("canvas", { class: "mf-moving", hidden: true }); // over the other, where that one is too slow
    const software = softwarePoints(moving);
    const lines = guides();
    const frame = el("div", { class: "mf-frame", title: t("What the outputs show") });
    const element = el("div", { class: "mf-canvas" }, canvas, moving, lines.element, frame);
    const drawing = onDemand(draw);
    const detail = movingDetail(drawing.request);
    const observer = new ResizeObserver(drawing.request);
    let renderer = null;
    let model = null;
    let colours = null;
    let words = null; // the colours as `software` takes them
    let kept = null;
    observer.observe(canvas);
    const orbit = orbitControls(canvas, {
        get: host.camera,
        set: (camera, finished) => {
            host.setCamera(camera, finished);
            moved();
        },
        unit: () => model?.median ?? 1,
        perPixel: () => (model ? 1 / (lens()[0] * model.camera.width * fitScale(model.camera, viewport())) : 0),
        click: (event) => atPointer(event, host.clicked),
        reset: host.reset,
    });
    canvas.addEventListener("dblclick", (event) => atPointer(event, host.pivoted));
    canvas.addEventListener("webglcontextlost", (event) => {
        event.preventDefault();
        if (renderer) host.lost();
    });
    canvas.addEventListener("webglcontextrestored", () => {
        renderer = null;
        if (model) load(model, colours);
        host.found();
    });

    // What changes is drawn fast at first, and all of it as soon as nothing changes any more.
    function moved() {
        detail.moved();
        drawing.request();
    }

    // Throws with a text for the user where it cannot be drawn.
    function load(loaded, ownColours) {
        if (!renderer) {
            renderer = cloudRenderer(canvas);
            if (renderer.software) detail.measured(Infinity, 0);
        }
        renderer.load(loaded);
        model = loaded;
        paint(ownColours);
    }

    function paint(ownColours) {
        colours = ownColours;
        words = null;
        renderer.paint(colours);
        moved();
    }

    function lens() {
        const { fov } = host.settings();
        return fov ? withFovY(model.camera.k, fov) : model.camera.k;
    }

    function scene() {
        const { edge, far, pointSize } = host.settings();
        const at = host.camera();
        return {
            view: viewMatrix(orbitPose(at)),
            k: lens(),
            near: 0.02 * Math.min(model.near, at.distance),
            far: Math.min(model.far, 1e4 * model.median) + 4 * at.distance + Math.hypot(...at.pivot),
            edge,
            farCut: far * model.median,
            pointSize,
        };
    }

    function viewport() {
        return { width: Math.max(1, canvas.clientWidth), height: Math.max(1, canvas.clientHeight) };
    }

    function draw() {
        if (!model || !renderer || !canvas.clientWidth) return;
        const density = window.devicePixelRatio || 1;
        const screen = viewport();
        const pixels = { width: Math.round(screen.width * density), height: Math.round(screen.height * density) };
        if (canvas.width !== pixels.width || canvas.height !== pixels.height) Object.assign(canvas, pixels);
        const current = scene();
        const clip = renderer.clipOf(current, screen);
        const share = detail.share();
        moving.hidden = !(kept && detail.moving() && detail.rate() < software.rate());
        if (moving.hidden) drawAll(current, pixels, share);
        else drawMoving(current, screen, clip);
        lines.draw(guideLines(), clip, screen, model.median);
        placeFrame(screen);
        host.drawn(clip, screen);
    }

    function drawAll(current, pixels, share) {
        const began = performance.now();
        renderer.draw(current, pixels, share);
        if (detail.moving()) return;
        renderer.finish();
        detail.measured(performance.now() - began, model.count);
    }

    function drawMoving(current, screen, clip) {
        words ??= colourWords(colours);
        const focal = renderer.focalOf(current, screen);
        software.draw(model, kept, words, { clip, focal, near: current.near }, screen);
    }

    function guideLines() {
        const { axes, grid, frustum } = host.settings();
        const unit = model.median;
        return [
            ...(grid ? gridLines(FLOOR * unit, unit, unit) : []),
            ...(frustum ? frustumLines(model.camera, 0.5 * unit) : []),
            ...(axes ? axisLines(host.camera().pivot, unit) : []),
        ];
    }

    function placeFrame(screen) {
        const scale = fitScale(model.camera, screen);
        const [width, height] = [model.camera.width * scale, model.camera.height * scale];
        const box = { left: (screen.width - width) / 2, top: (screen.height - height) / 2, width, height };
        for (const [name, value] of Object.entries(box)) frame.style[name] = `${value}px`;
    }

    function atPointer(event, use) {
        if (!model) return;
        const clip = renderer.clipOf(scene(), viewport());
        const point = pick(model, kept, clip, viewport(), localPosition(event, canvas), PICK_PIXELS);
        if (point >= 0) use(point);
        drawing.request();
    }

    // {width, height, pixels}, RGBA by rows from the top, alpha 0 where nothing is.
    function picture() {
        const taken = renderer.picture(scene());
        drawing.request();
        return taken;
    }

    function dispose() {
        for (const part of [drawing, detail, orbit]) part.dispose();
        observer.disconnect();
        renderer?.dispose();
        renderer = model = colours = words = kept = null;
        for (const surface of [canvas, moving]) Object.assign(surface, { width: 0, height: 0 }); // frees their memory now
        element.remove();
    }

    return {
        element,
        load,
        paint,
        keep: (points) => { kept = points; },
        moved,
        picture,
        dispose,
    };
}
