// The points that the viewer draws, whatever they come from, and what is computed of them once.

import { depthSpans } from "./points.js";
import { rankedDepth } from "../maths/ranks.js";

const SAMPLES = 1e5;

// image: of parseGeometry(). Returns null where there is no point, else {count, positions (three a point), colors (three
// bytes a point), spacing (between neighbouring samples), span (of the depth around the point, 0 where not known),
// pixels (of the depth map, by rows; null without one), faces (null without), camera: {width, height, k}, scene, near,
// median, far: depths seen from the source}.
export function cloudModel(image) {
    const points = image.kind === "depth" ? pointsOfDepth(image) : pointsOfShape(image);
    if (!points.count) return null;
    const { width, height, k, scene } = image;
    return { ...points, scene, camera: { width, height, k }, ...depths(image, points) };
}

function pointsOfDepth(image) {
    const { width, height, depth, k, colors: source } = image;
    const spans = depthSpans(image);
    let count = 0;
    for (let index = 0; index < depth.length; index++) if (depth[index] > 0) count++;
    const positions = new Float32Array(3 * count);
    const colors = new Uint8Array(3 * count);
    const [spacing, span] = [new Float32Array(count), new Float32Array(count)];
    const pixels = new Uint32Array(count);
    const sample = 1 / Math.min(k[0] * width, k[4] * height);
    let at = 0;
    for (let row = 0, index = 0; row < height; row++) {
        const y = ((row + 0.5) / height - k[5]) / k[4];
        for (let column = 0; column < width; column++, index++) {
            const z = depth[index];
            if (!(z > 0)) continue;
            positions[3 * at] = z * (((column + 0.5) / width - k[2]) / k[0]);
            positions[3 * at + 1] = z * y;
            positions[3 * at + 2] = z;
            colors[3 * at] = source[3 * index];
            colors[3 * at + 1] = source[3 * index + 1];
            colors[3 * at + 2] = source[3 * index + 2];
            spacing[at] = z * sample;
            span[at] = spans[index];
            pixels[at++] = index;
        }
    }
    return { count, positions, colors, spacing, span, pixels, faces: null };
}

function pointsOfShape({ positions, colors, spacing, faces }) {
    const count = positions.length / 3;
    return { count, positions, colors, spacing: spacing ?? new Float32Array(count), span: new Float32Array(count), pixels: null, faces: faces ?? null };
}

function depths(image, { positions, count }) {
    if (image.kind === "depth") return extremes(rankedDepth(image.depth));
    const every = Math.ceil(count / SAMPLES);
    const ahead = [];
    for (let point = 0; point < count; point += every) if (positions[3 * point + 2] > 0) ahead.push(positions[3 * point + 2]);
    // Nothing ahead of the source: distances from it are as good.
    if (!ahead.length) for (let point = 0; point < count; point += every) ahead.push(Math.hypot(...positions.subarray(3 * point, 3 * point + 3)) || 1);
    return extremes(rankedDepth(Float32Array.from(ahead)));
}

function extremes(ranked) {
    const [near, median, far] = [0, ranked.count >> 1, ranked.count - 1].map(ranked.at);
    return { near, median, far };
}
