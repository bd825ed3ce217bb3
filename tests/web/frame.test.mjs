// What a frame of the viewer costs a graphics card, counted: the buffers stay as they were loaded, whatever moves.

import assert from "node:assert/strict";
import { test } from "node:test";

import { orbitPose, viewMatrix } from "../../web/maths/camera.js";
import { cloudRenderer } from "../../web/parts/cloud_renderer.js";
import { VERTEX } from "../../web/parts/cloud_shaders.js";

const K = [1, 0, 0.5, 0, 1, 0.5, 0, 0, 1];
const CONSTANTS = { POINTS: 0, TRIANGLES: 4, RENDERER: 7937 };
const UPLOADS = /^(buffer|tex|copy|renderbufferStorage)|^(create|vertexAttribPointer|compileShader|linkProgram)/;

// A WebGL context that does nothing and writes down what it is asked for.
function recorder() {
    const calls = [];
    const answers = { getParameter: () => "a graphics card", getExtension: () => null, getProgramParameter: () => true };
    const gl = new Proxy({}, {
        get: (_, name) => {
            if (name in CONSTANTS) return CONSTANTS[name];
            if (name === name.toUpperCase()) return name;
            return (...values) => {
                calls.push({ name, values });
                return answers[name]?.(...values) ?? {};
            };
        },
    });
    return { gl, calls, names: () => calls.map(({ name }) => name) };
}

function cloud(count, faces = null) {
    return {
        count, faces, positions: new Float32Array(3 * count), spacing: new Float32Array(count), span: new Float32Array(count),
        camera: { width: 512, height: 512, k: K },
    };
}

function scene(yaw) {
    const at = { pivot: [0, 0, 1], distance: 1, yaw, pitch: 0 };
    return { view: viewMatrix(orbitPose(at)), k: K, near: 0.1, far: 100, edge: 0.04, farCut: 0, pointSize: 1.5 };
}

test("24 bytes a point are sent once; a frame is one draw call and sends nothing but its numbers", () => {
    const { gl, calls, names } = recorder();
    const renderer = cloudRenderer({ getContext: () => gl });
    const count = 1000;
    renderer.load(cloud(count));
    renderer.paint(new Uint8Array(3 * count));
    const sent = calls.filter(({ name }) => name === "bufferData").reduce((sum, { values }) => sum + values[1].byteLength, 0);
    assert.equal(sent, 24 * count);

    for (const share of [1, 0.3, 1]) {
        for (const yaw of [0, 10, 20]) {
            calls.length = 0;
            renderer.draw(scene(yaw), { width: 900, height: 600 }, share);
            assert.deepEqual(names().filter((name) => UPLOADS.test(name)), []);
            const drawn = calls.filter(({ name }) => name.startsWith("draw"));
            assert.deepEqual(drawn.map(({ name, values }) => [name, ...values]), [["drawArrays", CONSTANTS.POINTS, 0, count * share]]);
            assert.ok(calls.length <= 13, names().join(" "));
        }
    }
});

test("a mesh is one draw call as well, its moving picture too", () => {
    const { gl, calls } = recorder();
    const renderer = cloudRenderer({ getContext: () => gl });
    renderer.load(cloud(4, Uint32Array.of(0, 1, 2, 0, 2, 3)));
    renderer.paint(new Uint8Array(12));
    for (const [share, name] of [[1, "drawElements"], [0.5, "drawArrays"]]) {
        calls.length = 0;
        renderer.draw(scene(0), { width: 900, height: 600 }, share);
        assert.deepEqual(calls.map((call) => call.name).filter((call) => call.startsWith("draw")), [name]);
    }
});

test("nothing as large as the cloud is allocated for a frame", () => {
    const { gl, calls } = recorder();
    const renderer = cloudRenderer({ getContext: () => gl });
    const count = 200_000;
    renderer.load(cloud(count));
    renderer.paint(new Uint8Array(3 * count));
    renderer.draw(scene(0), { width: 900, height: 600 }, 1);
    for (let frame = 0; frame < 20; frame++) {
        const before = process.memoryUsage();
        renderer.draw(scene(frame), { width: 900, height: 600 }, 1);
        const after = process.memoryUsage();
        assert.ok(after.arrayBuffers - before.arrayBuffers < count, "bytes outside of the heap");
        assert.ok(after.heapUsed - before.heapUsed < count, "bytes on the heap");
    }
});

test("the vertex shader has no loop and no texture: a product with a matrix, two comparisons, a division", () => {
    assert.doesNotMatch(VERTEX, /\b(for|while|texture|texelFetch)\b/);
    assert.ok(VERTEX.split(";").length <= 20);
});
