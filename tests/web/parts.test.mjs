// The parts that need no browser: files, picking, histogram, detail, dragging.

import assert from "node:assert/strict";
import { test } from "node:test";

import { clipMatrix, orbitPose } from "../../web/maths/camera.js";
import { colourBytes, table } from "../../web/maths/colour_maps.js";
import { meanDepth, mapper, measuredRange, pictureValue, sortedDepth } from "../../web/maths/depth_values.js";
import { log2AlphaThrough } from "../../web/maths/schedule.js";
import { flipped } from "../../web/parts/cloud_renderer.js";
import { parseGeometry } from "../../web/parts/geometry_file.js";
import { strideFor } from "../../web/parts/moving_detail.js";
import { dollied, moved, orbited } from "../../web/parts/orbit_controls.js";
import { depthSpans, pick, toScreen } from "../../web/parts/points.js";
import { histogram, sample } from "../../web/parts/range_control.js";
import { curve, thinned, toLevels, toPicture } from "../../web/parts/schedule_picture.js";

const K = [1, 0, 0.5, 0, 1, 0.5, 0, 0, 1];

function geometryFile(header, depth, colors) {
    let text = JSON.stringify({ format: "modality_forcing_geometry", version: 1, width: 2, height: 1, intrinsics: K, ...header });
    text += " ".repeat((4 - (text.length % 4)) % 4);
    const buffer = new ArrayBuffer(4 + text.length + 4 * depth.length + colors.length);
    new DataView(buffer).setUint32(0, text.length, true);
    new Uint8Array(buffer, 4).set(new TextEncoder().encode(text));
    depth.forEach((z, index) => new DataView(buffer).setFloat32(4 + text.length + 4 * index, z, true));
    new Uint8Array(buffer, 4 + text.length + 4 * depth.length).set(colors);
    return buffer;
}

test("a geometry file is read back", () => {
    const geometry = parseGeometry(geometryFile({}, [1.5, NaN], [1, 2, 3, 250, 0, 255]));
    assert.deepEqual([geometry.width, geometry.height, geometry.k], [2, 1, K]);
    assert.equal(geometry.depth[0], 1.5);
    assert.ok(Number.isNaN(geometry.depth[1]));
    assert.deepEqual([...geometry.colors], [1, 2, 3, 250, 0, 255]);
});

test("what is not a geometry file is refused with a text", () => {
    assert.throws(() => parseGeometry(new ArrayBuffer(0)), /not a geometry file/);
    assert.throws(() => parseGeometry(new TextEncoder().encode("<html>not found</html>").buffer), /not a geometry file/);
    assert.throws(() => parseGeometry(geometryFile({ format: "ply" }, [1, 2], [])), /not a geometry file/);
    assert.throws(() => parseGeometry(geometryFile({ version: 2 }, [1, 2], [])), /version 2, expected 1/);
    assert.throws(() => parseGeometry(geometryFile({}, [1, 2], [1])), /bytes, expected/);
});

test("spans ignore holes and end at the borders", () => {
    const depth = Float32Array.of(1, 2, NaN, 9, 5, 5);
    const spans = depthSpans({ width: 3, height: 2, depth });
    // Left column sees 1 2 9 5; middle sees everything; right column sees 2 5 5.
    assert.deepEqual([spans[0], spans[1], spans[3], spans[4], spans[5]], [8, 8, 8, 8, 3]);
});

test("picking takes the nearest point, not one behind it", () => {
    const size = { width: 3, height: 1 };
    const geometry = { ...size, k: K, depth: Float32Array.of(4, 1, 4) };
    const spans = depthSpans(geometry);
    const clip = clipMatrix(K, size, size, 0.1, 10);
    const all = { edge: 0, far: 0 };
    assert.equal(pick(geometry, spans, all, clip, size, [1.5, 0.5], 1.2), 1);
    assert.equal(pick(geometry, spans, all, clip, size, [0.5, 0.5], 0.4), 0);
    assert.equal(pick(geometry, spans, { edge: 0, far: 0.5 }, clip, size, [1.5, 0.5], 5), -1);
    assert.equal(toScreen(clip, size, [0, 0, -1]), null);
});

test("moving: orbit keeps the pivot in the middle, moving takes it along", () => {
    const camera = { pivot: [0, 0, 2], distance: 2, yaw: 0, pitch: 0 };
    const turned = orbited(camera, 90, 0);
    // Turned right by 90° about a point 2 ahead: now 2 to its left, looking along +x.
    const pose = orbitPose(turned);
    [[3, -2], [7, 0], [11, 2], [2, 1], [6, 0], [10, 0]].forEach(([i, expected]) => assert.ok(Math.abs(pose[i] - expected) < 1e-12));
    assert.equal(orbited(camera, 0, 120).pitch, 89);
    assert.equal(orbited(camera, 200, 0).yaw, -160);
    const ahead = moved(turned, [0, 0, 1]).pivot;
    [1, 0, 2].forEach((expected, axis) => assert.ok(Math.abs(ahead[axis] - expected) < 1e-12));
    assert.equal(dollied(camera, 0.5, 2).distance, 1);
    assert.equal(dollied(camera, 1e-9, 2).distance, 0.02);
});

test("detail while moving follows from what a full frame takes", () => {
    assert.deepEqual([0.5, 25, 26, 100, 101, 225, 1e6].map(strideFor), [1, 1, 2, 2, 3, 3, 6]);
});

test("dragging: the curve goes through the pointer, whatever lies outside is brought inside", () => {
    const [x, y] = toLevels(toPicture([0.3, 0.7]));
    assert.ok(Math.abs(x - 0.3) < 1e-12 && Math.abs(y - 0.7) < 1e-12);
    const alpha = log2AlphaThrough(0.3, 0.7);
    assert.ok(curve(alpha).some(([t, u]) => Math.hypot(t - 0.3, u - 0.7) < 0.02));
    assert.equal(log2AlphaThrough(-0.2, 1.3), 14);
    assert.equal(log2AlphaThrough(1, 0), -14);
});

test("dots are thinned with both ends kept", () => {
    const items = Array.from({ length: 10001 }, (_, index) => index);
    const shown = thinned(items, 200);
    assert.ok(shown.length <= 201);
    assert.deepEqual([shown[0], shown.at(-1)], [0, 10000]);
    assert.deepEqual(thinned([1, 2, 3], 200), [1, 2, 3]);
});

test("degenerate depth: one pixel, constant, none", () => {
    const map = mapper("linear", 1);
    assert.deepEqual(measuredRange(sortedDepth(Float32Array.of(NaN, 0, -1)), "linear", map, 0.1), [0, 0]);
    const one = measuredRange(sortedDepth(Float32Array.of(3)), "linear", map, 0.1);
    assert.equal(pictureValue(3, one, true), 0.5);
    assert.equal(pictureValue(NaN, one, true), 0);
    assert.equal(pictureValue(NaN, one, false), 1);
    assert.equal(mapper("code", meanDepth(Float32Array.of(1, 3, NaN)))(2), 1);
});

test("histogram, sample, colours, flip", () => {
    assert.equal(histogram([0, 1, 0.5, -0.1, 1.1, NaN]).reduce((a, b) => a + b), 3);
    assert.ok(sample(new Float32Array(1e6)).length <= 60000);
    assert.deepEqual([...colourBytes(table({}, "grey"), 2)], [0, 0, 0, 255, 255, 255, 255, 255]);
    assert.deepEqual([...flipped(Uint8Array.of(1, 1, 1, 1, 2, 2, 2, 2), 1, 2)], [2, 2, 2, 2, 1, 1, 1, 1]);
});
