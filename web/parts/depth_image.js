// Draws depth maps in colours on a canvas, panned and zoomed, and says which pixel lies where. Only what the screen shows
// is coloured, so a map of any size follows the hand.

import { pictureValue } from "../maths/depth_values.js";
import { onDemand } from "./elements.js";

export const PALETTE = 1024; // colours
const MOST_ZOOM = 64; // screen pixels for a pixel
const SHARP_FROM = 2; // from this zoom on pixels are shown as squares
const MARK = [255, 0, 200]; // of uncertainty

export function depthImage(canvas, afterDraw = () => {}) {
    const context = canvas.getContext("2d");
    const source = document.createElement("canvas");
    const view = { zoom: 1, x: 0, y: 0, fitted: true }; // x, y: the picture's corner on the screen
    const size = { width: 0, height: 0 }; // of the picture
    let layers = []; // [{paint, from}]: each is seen right of `from`, a share of the view's width
    const frame = onDemand(draw);
    const observer = new ResizeObserver(() => { if (view.fitted) fit(); frame.request(); });
    observer.observe(canvas);

    // painters: of painter(); the second is seen right of `split`, a share of the view's width.
    function show({ width, height }, painters, split) {
        if (size.width !== width || size.height !== height) view.fitted = true;
        Object.assign(size, { width, height });
        layers = painters.map((paint, index) => ({ paint, from: index ? split : 0 }));
        if (view.fitted) fit();
        frame.request();
    }

    function fit() {
        const zoom = Math.min(canvas.clientWidth / size.width, canvas.clientHeight / size.height);
        const x = (canvas.clientWidth - size.width * zoom) / 2;
        const y = (canvas.clientHeight - size.height * zoom) / 2;
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
        const inside = column >= 0 && row >= 0 && column < size.width && row < size.height;
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
        if (!size.width || !(view.zoom > 0)) return;
        context.imageSmoothingEnabled = view.zoom * density < SHARP_FROM;
        const region = visibleRegion(view, size, [canvas.clientWidth, canvas.clientHeight], density);
        for (const { paint, from } of region ? layers : []) drawLayer(paint, region, from * canvas.clientWidth);
        afterDraw(context);
    }

    function drawLayer(paint, region, left) {
        const { x, y, columns, rows, step } = region;
        if (source.width !== columns || source.height !== rows) Object.assign(source, { width: columns, height: rows });
        const pixels = new ImageData(columns, rows);
        paint(new Uint32Array(pixels.data.buffer), region, size);
        source.getContext("2d").putImageData(pixels, 0, 0);
        context.save();
        context.beginPath();
        context.rect(left, 0, canvas.clientWidth - left, canvas.clientHeight);
        context.clip();
        const zoom = step * view.zoom;
        context.drawImage(source, view.x + x * view.zoom, view.y + y * view.zoom, columns * zoom, rows * zoom);
        context.restore();
    }

    function dispose() {
        frame.dispose();
        observer.disconnect();
        layers = [];
        for (const surface of [canvas, source]) Object.assign(surface, { width: 0, height: 0 }); // frees their memory now
    }

    return { show, fit, pan, zoomBy, pixelAt, screenOf, redraw: frame.request, dispose };
}

// What has to be coloured: {x, y: first column and row; columns, rows: how many; step: of so many pixels each}, about one
// for each pixel of the screen; null where nothing is in sight.
export function visibleRegion(view, size, [screenWidth, screenHeight], density) {
    const step = Math.max(1, Math.floor(1 / (view.zoom * density)));
    const span = (corner, length, screen) => {
        const first = Math.max(0, Math.floor(-corner / view.zoom / step) * step);
        const last = Math.min(length, (screen - corner) / view.zoom);
        return [first, Math.ceil((last - first) / step)];
    };
    const [x, columns] = span(view.x, size.width, screenWidth);
    const [y, rows] = span(view.y, size.height, screenHeight);
    return columns > 0 && rows > 0 ? { x, y, columns, rows, step } : null;
}

// Colours a region of a depth map: a function (words, region, size of the picture shown), which may be another map's.
// rows: RGBA bytes of PALETTE colours. marks: {values, top}, uncertainty that is mixed in, or null.
export function painter({ width, height, depth }, map, range, nearWhite, rows, marks) {
    const palette = new Uint32Array(rows.buffer);
    return (words, { x, y, columns, rows: count, step }, size) => {
        const centre = step >> 1;
        const [across, down] = [width / size.width, height / size.height];
        for (let row = 0, at = 0; row < count; row++) {
            const start = Math.min(height - 1, ((y + row * step + centre) * down) | 0) * width;
            for (let column = 0; column < columns; column++, at++) {
                const index = start + Math.min(width - 1, ((x + column * step + centre) * across) | 0);
                const z = depth[index];
                const value = pictureValue(z > 0 ? map(z) : NaN, range, nearWhite);
                words[at] = palette[(value * (PALETTE - 1) + 0.5) | 0];
                if (marks) words[at] = mixed(words[at], Math.min(1, marks.values[index] / marks.top));
            }
        }
    };
}

function mixed(word, share) {
    const part = (shift, mark) => (((word >>> shift) & 255) * (1 - share) + mark * share) << shift;
    return share > 0 ? (part(0, MARK[0]) | part(8, MARK[1]) | part(16, MARK[2]) | (255 << 24)) >>> 0 : word;
}
