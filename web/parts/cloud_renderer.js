// Draws a cloud model as points or triangles with WebGL 2, to its canvas or to a picture of any size.

import { clipMatrix, fitScale, multiply } from "../maths/camera.js";
import { FRAGMENT, VERTEX } from "./cloud_shaders.js";
import { t } from "./texts.js";

const UNIFORMS = ["clip", "edge", "far", "focal", "points"];
const FLOATS = 5; // of a point: position, spacing, span

const BY_THE_CPU = /swiftshader|llvmpipe|softpipe|basic render|software/i;

// Throws with a text for the user where there is no WebGL 2. `software`: the CPU draws in the graphics card's place.
export function cloudRenderer(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, powerPreference: "high-performance" });
    if (!gl) throw new Error(t("this browser offers no WebGL 2; turn on graphics acceleration, or use another browser"));
    const program = link(gl);
    const uniform = Object.fromEntries(UNIFORMS.map((name) => [name, gl.getUniformLocation(program, name)]));
    const buffers = { points: gl.createBuffer(), colours: gl.createBuffer(), faces: gl.createBuffer() };
    const layout = gl.createVertexArray();
    const names = gl.getExtension("WEBGL_debug_renderer_info");
    const software = BY_THE_CPU.test(gl.getParameter(names?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER));
    let size = null; // of the picture
    let order = null; // place in the buffers of each point
    let drawn = { points: 0, indices: 0 };
    bindLayout();

    function bindLayout() {
        gl.bindVertexArray(layout);
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers.points);
        gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 4 * FLOATS, 0);
        gl.vertexAttribPointer(1, 2, gl.FLOAT, false, 4 * FLOATS, 12);
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers.colours);
        gl.vertexAttribPointer(2, 3, gl.UNSIGNED_BYTE, true, 4, 0);
        for (const index of [0, 1, 2]) gl.enableVertexAttribArray(index);
        gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers.faces);
    }

    // model: of cloudModel().
    function load({ count, positions, spacing, span, faces, camera }) {
        size = camera;
        order = evenOrder(count);
        const data = new Float32Array(FLOATS * count);
        for (let point = 0; point < count; point++) {
            const at = FLOATS * order[point];
            data[at] = positions[3 * point];
            data[at + 1] = positions[3 * point + 1];
            data[at + 2] = positions[3 * point + 2];
            data[at + 3] = spacing[point];
            data[at + 4] = span[point];
        }
        upload(gl.ARRAY_BUFFER, buffers.points, data);
        upload(gl.ELEMENT_ARRAY_BUFFER, buffers.faces, faces ? faces.map((point) => order[point]) : new Uint32Array(0));
        drawn = { points: count, indices: faces?.length ?? 0 };
    }

    // colours: three bytes a point.
    function paint(colours) {
        const data = new Uint8Array(4 * order.length);
        for (let point = 0; point < order.length; point++) {
            const at = 4 * order[point];
            data[at] = colours[3 * point];
            data[at + 1] = colours[3 * point + 1];
            data[at + 2] = colours[3 * point + 2];
        }
        upload(gl.ARRAY_BUFFER, buffers.colours, data);
    }

    function upload(target, buffer, data) {
        gl.bindVertexArray(layout);
        gl.bindBuffer(target, buffer);
        gl.bufferData(target, data, gl.STATIC_DRAW);
    }

    // scene: {view, k, near, far, edge, farCut, pointSize}; near, far: clipping planes. share: of the points, evenly.
    function draw(scene, viewport, share) {
        gl.viewport(0, 0, viewport.width, viewport.height);
        gl.clearColor(0, 0, 0, 0);
        gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
        gl.enable(gl.DEPTH_TEST);
        gl.useProgram(program);
        gl.bindVertexArray(layout);
        const triangles = drawn.indices > 0 && share === 1;
        gl.uniformMatrix4fv(uniform.clip, true, clipOf(scene, viewport));
        gl.uniform1f(uniform.edge, scene.edge);
        gl.uniform1f(uniform.far, scene.farCut);
        gl.uniform1f(uniform.focal, focalOf(scene, viewport) / Math.sqrt(share));
        gl.uniform1i(uniform.points, triangles ? 0 : 1);
        if (triangles) gl.drawElements(gl.TRIANGLES, drawn.indices, gl.UNSIGNED_INT, 0);
        else gl.drawArrays(gl.POINTS, 0, Math.ceil(drawn.points * share));
    }

    function clipOf(scene, viewport) {
        return multiply(clipMatrix(scene.k, size, viewport, scene.near, scene.far), scene.view);
    }

    // Screen pixels of the length 1 at the distance 1, times the points' size.
    function focalOf({ k, pointSize }, viewport) {
        return k[0] * size.width * fitScale(size, viewport) * pointSize;
    }

    // Waits until everything is drawn, which nothing but reading a pixel does.
    function finish() {
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    }

    // RGBA bytes by rows from the top, alpha 0 where nothing is; of the picture's size, or another.
    function picture(scene, { width, height } = size) {
        const target = gl.createFramebuffer();
        const stores = [[gl.COLOR_ATTACHMENT0, gl.RGBA8], [gl.DEPTH_ATTACHMENT, gl.DEPTH_COMPONENT24]].map(([place, format]) => {
            const store = gl.createRenderbuffer();
            gl.bindFramebuffer(gl.FRAMEBUFFER, target);
            gl.bindRenderbuffer(gl.RENDERBUFFER, store);
            gl.renderbufferStorage(gl.RENDERBUFFER, format, width, height);
            gl.framebufferRenderbuffer(gl.FRAMEBUFFER, place, gl.RENDERBUFFER, store);
            return store;
        });
        draw(scene, { width, height }, 1);
        const pixels = new Uint8Array(4 * width * height);
        gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
        gl.bindFramebuffer(gl.FRAMEBUFFER, null);
        gl.deleteFramebuffer(target);
        stores.forEach((store) => gl.deleteRenderbuffer(store));
        return { width, height, pixels: flipped(pixels, width, height) };
    }

    function dispose() {
        Object.values(buffers).forEach((buffer) => gl.deleteBuffer(buffer));
        gl.deleteVertexArray(layout);
        gl.deleteProgram(program);
        gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep only some 16 contexts
    }

    return { software, load, paint, draw, finish, clipOf, focalOf, picture, dispose };
}

// A place for each of `count` points, so that the first ones of any number lie evenly among all: steps of about the
// golden section, which have no factor in common with the count.
export function evenOrder(count) {
    let step = Math.max(1, Math.round(count * 0.6180339887));
    while (commonFactor(step, count) > 1) step++;
    const order = new Uint32Array(count);
    for (let place = 0, point = 0; place < count; place++) {
        order[point] = place;
        point += step;
        if (point >= count) point -= count;
    }
    return order;
}

function commonFactor(a, b) {
    return b ? commonFactor(b, a % b) : a;
}

// WebGL's rows start at the bottom.
export function flipped(pixels, width, height) {
    const result = new Uint8ClampedArray(pixels.length);
    for (let row = 0; row < height; row++) {
        result.set(pixels.subarray(4 * row * width, 4 * (row + 1) * width), 4 * (height - 1 - row) * width);
    }
    return result;
}

function link(gl) {
    const program = gl.createProgram();
    const shaders = [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]].map(([type, text]) => {
        const shader = gl.createShader(type);
        gl.shaderSource(shader, text);
        gl.compileShader(shader);
        gl.attachShader(program, shader);
        return shader;
    });
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
        const why = [...shaders.map((shader) => gl.getShaderInfoLog(shader)), gl.getProgramInfoLog(program)].filter(Boolean);
        throw new Error(t("the graphics driver refused the shaders: {why}", { why: why.join(" ") }));
    }
    shaders.forEach((shader) => gl.deleteShader(shader));
    return program;
}
