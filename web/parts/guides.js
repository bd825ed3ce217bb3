// Lines in space over the picture: the axes, a grid on the floor, the source camera's frustum.

import { unproject } from "../maths/camera.js";
import { svg } from "./elements.js";

const NEAREST = 1e-3; // share of the scene's unit: what is closer to the camera is cut off
const GRID = 5; // lines to either side

// Returns {element, draw(lines, clip, viewport, unit)}; lines: [{from, to, kind}] in source axes.
export function guides() {
    const element = svg("svg", { class: "mf-guides", "aria-hidden": "true" });

    function draw(lines, clip, viewport, unit) {
        element.replaceChildren(...lines.map(({ from, to, kind }) => {
            const ends = onScreen(clip, viewport, from, to, NEAREST * unit);
            if (!ends) return null;
            const [[x1, y1], [x2, y2]] = ends;
            return svg("line", { class: `mf-${kind}`, x1, y1, x2, y2 });
        }).filter(Boolean));
    }
    return { element, draw };
}

// The ends of a line on the screen, cut off at the distance `nearest`; null where all of it is closer or behind.
export function onScreen(clip, viewport, from, to, nearest) {
    let [a, b] = [from, to].map((point) => homogeneous(clip, point));
    if (a[2] < nearest && b[2] < nearest) return null;
    const cut = (inside, outside) => {
        const share = (inside[2] - nearest) / (inside[2] - outside[2]);
        return inside.map((value, axis) => value + share * (outside[axis] - value));
    };
    if (a[2] < nearest) a = cut(b, a);
    else if (b[2] < nearest) b = cut(a, b);
    return [a, b].map(([x, y, w]) => [((x / w + 1) / 2) * viewport.width, ((1 - y / w) / 2) * viewport.height]);
}

function homogeneous(m, [x, y, z]) {
    return [0, 4, 12].map((row) => m[row] * x + m[row + 1] * y + m[row + 2] * z + m[row + 3]);
}

// Through the pivot, one scene's unit long: x red, y (down) green, z (ahead) blue.
export function axisLines([x, y, z], unit) {
    const from = [x, y, z];
    return [[unit, 0, 0], [0, unit, 0], [0, 0, unit]]
        .map((way, axis) => ({ from, to: from.map((value, i) => value + 0.5 * way[i]), kind: `axis-${"xyz"[axis]}` }));
}

// A level grid at the height `floor`, around the middle of the scene.
export function gridLines(floor, middle, unit) {
    const step = 0.4 * unit;
    const reach = GRID * step;
    const lines = [];
    for (let line = -GRID; line <= GRID; line++) {
        const at = line * step;
        lines.push({ from: [at, floor, middle - reach], to: [at, floor, middle + reach], kind: "grid" });
        lines.push({ from: [-reach, floor, middle + at], to: [reach, floor, middle + at], kind: "grid" });
    }
    return lines;
}

// The source camera: from its centre to the corners of the picture at the depth `far`.
export function frustumLines({ width, height, k }, far) {
    const corners = [[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]]
        .map(([column, row]) => unproject(column, row, far, k, width, height));
    return corners.flatMap((corner, index) => [
        { from: [0, 0, 0], to: corner, kind: "frustum" },
        { from: corner, to: corners[(index + 1) % 4], kind: "frustum" },
    ]);
}
