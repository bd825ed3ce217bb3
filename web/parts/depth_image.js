// Draws a depth map in colours on a canvas, panned and zoomed, and says which pixel lies where.

import { pictureValue } from "../maths/depth_values.js";
import { onDemand } from "./elements.js";

const COLOURS = 1024;
const MOST_ZOOM = 64; // screen pixels for a pixel
const SHARP_FROM = 2; // from this zoom on pixels are shown as squares

export function depthImage(canvas, afterDraw = () => {}) {
    const context = canvas.getContext("2d");
    const source = document.createElement("canvas");
    const view = { zoom: 1, x: 0, y: 0, fitted: true }; // x, y: the picture's corner on the screen
    const frame = onDemand(draw);
    const observer = new ResizeObserver(() => { if (view.fitted) fit(); frame.request(); });
    observer.observe(canvas);

    // colours: RGBA bytes of COLOURS rows; map: depth to its mapped value; range: that at near and at far.
    function paint({ width, height, depth }, map, range, nearWhite, colours) {
        if (source.width !== width || source.height !== height) {
            Object.assign(source, { width, height });
            view.fitted = true;
        }
        const pixels = new ImageData(width, height);
        const words = new Uint32Array(pixels.data.buffer);
        const palette = new Uint32Array(colours.buffer);
        for (let index = 0; index < depth.length; index++) {
            const z = depth[index];
            const value = pictureValue(z > 0 ? map(z) : NaN, range, nearWhite);
            words[index] = palette[(value * (COLOURS - 1) + 0.5) | 0];
        }
        source.getContext("2d").putImageData(pixels, 0, 0);
        if (view.fitted) fit();
        frame.request();
    }

    function fit() {
        const zoom = Math.min(canvas.clientWidth / source.width, canvas.clientHeight / source.height);
        const x = (canvas.clientWidth - source.width * zoom) / 2;
        const y = (canvas.clientHeight - source.height * zoom) / 2;
        Object.assign(view, { zoom, x, y, fitted: true });
        frame.request();
    }

    function pan(dx, dy) {
        Object.assign(view, { x: view.x + dx, y: view.y + dy, fitted: false });
        frame.request();
    }

    // Zooms about a place of the screen.
    function zoomBy(factor, [x, y] = [canvas.clientWidth / 2, canvas.clientHeight / 2]) {
        const zoom = Math.min(MOST_ZOOM, Math.max(0.02, view.zoom * factor));
        const change = zoom / view.zoom;
        Object.assign(view, { zoom, x: x - (x - view.x) * change, y: y - (y - view.y) * change, fitted: false });
        frame.request();
    }

    // {column, row} under a place of the screen, or null outside the picture.
    function pixelAt([x, y]) {
        const column = Math.floor((x - view.x) / view.zoom);
        const row = Math.floor((y - view.y) / view.zoom);
        const inside = column >= 0 && row >= 0 && column < source.width && row < source.height;
        return inside ? { column, row } : null;
    }

    function screenOf({ column, row }) {
        return [view.x + (column + 0.5) * view.zoom, view.y + (row + 0.5) * view.zoom];
    }

    function draw() {
        const density = window.devicePixelRatio || 1;
        const width = Math.max(1, Math.round(canvas.clientWidth * density));
        const height = Math.max(1, Math.round(canvas.clientHeight * density));
        if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
        context.setTransform(density, 0, 0, density, 0, 0);
        context.clearRect(0, 0, width, height);
        context.imageSmoothingEnabled = view.zoom < SHARP_FROM;
        context.drawImage(source, view.x, view.y, source.width * view.zoom, source.height * view.zoom);
        afterDraw(context);
    }

    function dispose() {
        frame.dispose();
        observer.disconnect();
        for (const surface of [canvas, source]) Object.assign(surface, { width: 0, height: 0 }); // frees their memory now
    }

    return { colours: COLOURS, paint, fit, pan, zoomBy, pixelAt, screenOf, redraw: frame.request, dispose };
}
