// The colours of the points: the picture's, by depth, or by the direction of the surface.

import { colourBytes } from "../maths/colour_maps.js";
import { CLIP_PERCENT, mapper, measuredRange, pictureValue } from "../maths/depth_values.js";
import { rankedDepth } from "../maths/ranks.js";

const SAME_SURFACE = 0.04; // of the depth, as the default cut at edges

// Three bytes a point. rows: a colour table. Near is its upper end.
export function depthColours({ count, positions }, rows) {
    const depth = new Float32Array(count);
    for (let point = 0; point < count; point++) depth[point] = positions[3 * point + 2];
    const range = measuredRange(rankedDepth(depth), "disparity", mapper("disparity"), CLIP_PERCENT);
    const table = colourBytes(rows, 256);
    const colours = new Uint8Array(3 * count);
    for (let point = 0; point < count; point++) {
        const entry = 4 * Math.round(255 * pictureValue(1 / depth[point], range, true));
        for (let channel = 0; channel < 3; channel++) colours[3 * point + channel] = table[entry + channel];
    }
    return colours;
}

// As a normal picture: x right, y up, z towards the camera; grey where a point has no surface around it.
export function normalColours(model) {
    const normals = model.faces ? normalsOfFaces(model) : normalsOfPixels(model);
    const colours = new Uint8Array(3 * model.count);
    for (let point = 0; point < model.count; point++) {
        const [x, y, z] = [normals[3 * point], normals[3 * point + 1], normals[3 * point + 2]];
        const scale = 127.5 / (Math.hypot(x, y, z) || Infinity);
        colours[3 * point] = 127.5 + scale * x + 0.5;
        colours[3 * point + 1] = 127.5 - scale * y + 0.5;
        colours[3 * point + 2] = 127.5 - scale * z + 0.5;
    }
    return colours;
}

// Across the neighbours of the same surface, from the one before to the one after.
function normalsOfPixels({ count, positions, pixels, camera: { width, height } }) {
    const places = new Int32Array(width * height).fill(-1);
    for (let point = 0; point < count; point++) places[pixels[point]] = point;
    const normals = new Float32Array(3 * count);
    const beside = (point, pixel, inside) => {
        const other = inside ? places[pixel] : -1;
        if (other < 0) return point;
        const z = positions[3 * point + 2];
        return Math.abs(positions[3 * other + 2] - z) > SAME_SURFACE * z ? point : other;
    };
    for (let point = 0; point < count; point++) {
        const pixel = pixels[point];
        const column = pixel % width;
        const left = beside(point, pixel - 1, column > 0);
        const right = beside(point, pixel + 1, column + 1 < width);
        const above = beside(point, pixel - width, pixel >= width);
        const below = beside(point, pixel + width, pixel + width < width * height);
        addCross(normals, point, positions, above, below, left, right);
    }
    return normals;
}

function normalsOfFaces({ count, positions, faces }) {
    const normals = new Float32Array(3 * count);
    for (let at = 0; at < faces.length; at += 3) {
        const [a, b, c] = [faces[at], faces[at + 1], faces[at + 2]];
        for (const corner of [a, b, c]) addCross(normals, corner, positions, a, b, a, c);
    }
    return normals;
}

// Adds (from a to b) × (from c to d).
function addCross(normals, point, positions, a, b, c, d) {
    const [ux, uy, uz] = [0, 1, 2].map((axis) => positions[3 * b + axis] - positions[3 * a + axis]);
    const [vx, vy, vz] = [0, 1, 2].map((axis) => positions[3 * d + axis] - positions[3 * c + axis]);
    normals[3 * point] += uy * vz - uz * vy;
    normals[3 * point + 1] += uz * vx - ux * vz;
    normals[3 * point + 2] += ux * vy - uy * vx;
}
