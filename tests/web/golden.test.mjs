// web/maths against numbers of the Python side (tests/golden_web/make.py).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as camera from "../../web/maths/camera.js";
import * as codec from "../../web/maths/codec.js";
import { colour, table } from "../../web/maths/colour_maps.js";
import { mapper, measuredRange, pictureValue } from "../../web/maths/depth_values.js";
import { rankedDepth } from "../../web/maths/ranks.js";
import * as schedule from "../../web/maths/schedule.js";
import { cloudModel } from "../../web/parts/cloud_model.js";
import { countOf, keptPoints, pointAt } from "../../web/parts/points.js";

const read = (path) => JSON.parse(readFileSync(new URL(path, import.meta.url)));
const golden = (name) => read(`../golden_web/${name}.json`);
const tables = read("../../web/colour_maps.json");

function close(got, expected, tolerance, what = "") {
    assert.equal(got.length, expected.length, what);
    got.forEach((value, index) => assert.ok(Math.abs(value - expected[index]) <= tolerance,
        `${what} entry ${index}: got ${value}, expected ${expected[index]}`));
}

test("camera: unproject and project", () => {
    const { size: [width, height], intrinsics, pixels, points, positions } = golden("camera");
    pixels.forEach(([column, row, z], index) => {
        const point = camera.unproject(column, row, z, intrinsics, width, height);
        close(point, points[index], 2e-6, "point");
        close(camera.project(point, intrinsics, width, height), positions[index], 1e-3, "position as Python's float32");
        close(camera.project(point, intrinsics, width, height), [column + 0.5, row + 0.5], 1e-9, "round trip");
    });
    assert.equal(camera.project([0, 0, 0], intrinsics, width, height), null);
});

test("camera: orbits are Python's poses, and the view is their inverse", () => {
    const { orbits, poses } = golden("camera");
    orbits.forEach((orbit, index) => {
        const pose = camera.orbitPose(orbit);
        close(pose, poses[index], 2e-6, JSON.stringify(orbit));
        const identity = camera.multiply(camera.viewMatrix(pose), pose);
        close(identity, [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], 1e-12, "inverse");
    });
});

test("camera: at the source camera every pixel lands on itself", () => {
    const { size: [width, height], intrinsics, pixels } = golden("camera");
    const size = { width, height };
    const clip = camera.clipMatrix(intrinsics, size, size, 0.01, 100);
    for (const [column, row, z] of pixels) {
        const [x, y] = camera.transform(clip, camera.unproject(column, row, z, intrinsics, width, height));
        close([((x / z + 1) / 2) * width, ((1 - y / z) / 2) * height], [column + 0.5, row + 0.5], 1e-9);
    }
});

test("camera: a wider viewport shows the picture in its middle", () => {
    const k = [1, 0, 0.5, 0, 1, 0.5, 0, 0, 1];
    const clip = camera.clipMatrix(k, { width: 100, height: 100 }, { width: 400, height: 200 }, 0.1, 10);
    // The picture's left border at depth 1 is x = −0.5: on a 400 wide viewport at 100 px, that is −0.5 of −1 … 1.
    assert.equal(camera.transform(clip, [-0.5, 0, 1])[0], -0.5);
    assert.equal(camera.transform(clip, [0, -0.5, 1])[1], 1);
});

test("codec", () => {
    const { depth, code } = golden("codec");
    close(depth.map(codec.contract), code, 1e-7);
    close(code.map(codec.expand), depth, 2e-2); // 2 − 1/1000 has few digits left, in eight
    close(code.slice(0, 5).map(codec.expand), depth.slice(0, 5), 1e-6);
});

test("schedule: trajectories, given levels, log2_alpha through a point", () => {
    const { trajectories, clock, given, points, log2_alpha: expected } = golden("schedule");
    for (const { steps, mu, log2_alpha: alpha, levels } of trajectories) {
        const got = schedule.trajectory(steps, mu, alpha);
        got.forEach((pair, step) => close(pair, levels[step], 2e-7, `${steps} steps, step ${step}`));
    }
    for (const [strength, levels] of Object.entries(given)) {
        close(clock.map((t) => schedule.givenLevel(t, Number(strength))), levels, 1e-7, `strength ${strength}`);
    }
    close(points.map(([x, y]) => schedule.log2AlphaThrough(x, y)), expected, 1e-7);
});

test("schedule: a given modality", () => {
    const whole = { strength: 1, start: 0, end: 1, masked: false };
    const image = schedule.trajectory(5, 1.1, 5, { rgb: whole });
    assert.deepEqual(image.map(([t]) => t), [0, 0, 0, 0, 0, 0]);
    close(image.map(([, t]) => t), schedule.baseLevels(5, 1.1), 0); // one clock: log2_alpha has no effect
    const depth = schedule.trajectory(5, 1.1, 5, { depth: { ...whole, strength: 0.5 } });
    close(depth.map(([, t]) => t), schedule.baseLevels(5, 1.1).map((t) => schedule.tilt(t, 0)), 1e-12);
    const masked = schedule.trajectory(5, 1.1, 5, { depth: { ...whole, masked: true } });
    assert.deepEqual(masked, schedule.trajectory(5, 1.1, 5));
    const late = schedule.trajectory(4, 0, 0, { depth: { ...whole, start: 0.5 } }); // t: 1, .75, .5, .25, 0
    close(late.map(([, t]) => t), [1, 0.75, 0, 0, 0], 1e-12);
});

test("depth pictures", () => {
    const { depth: values, pictures } = golden("depth");
    const depth = Float32Array.from(values, (z) => z ?? NaN);
    const ranked = rankedDepth(depth);
    for (const { mapping, polarity, clip_percent: clip, colour_map: name, pixels } of pictures) {
        const map = mapper(mapping, 1);
        const range = measuredRange(ranked, mapping, map, clip);
        const rows = table(tables, name);
        const got = Array.from(depth, (z) => colour(rows, pictureValue(z > 0 ? map(z) : NaN, range, polarity === "near-white")));
        close(got.flat(), pixels.flat(2), 3e-6, `${mapping} ${name}`);
    }
});

test("filters leave as many points as Python's", () => {
    const { size: [width, height], depth: values, filters, kept } = golden("depth");
    const k = [1, 0, 0.5, 0, 1, 0.5, 0, 0, 1];
    const depth = Float32Array.from(values, (z) => z ?? NaN);
    const model = cloudModel({ kind: "depth", width, height, k, depth, colors: new Uint8Array(3 * depth.length) });
    assert.deepEqual(filters.map((filter) => countOf(keptPoints(model, filter))), kept);
    assert.ok(new Set(kept).size === kept.length);
    close(pointAt(model, 0), [-0.5 + 0.5 / 12, -0.5 + 0.5 / 9, 1], 1e-6);
});
