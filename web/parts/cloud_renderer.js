// Draws a geometry as points with WebGL 2, to its canvas or to a picture of any size.

import { clipMatrix, fitScale, multiply } from "../maths/camera.js";
import { FRAGMENT, VERTEX } from "./cloud_shaders.js";

const UNIFORMS = ["depths", "picture", "ramp", "size", "stride", "camera", "clip", "edge", "far", "pointSize", "fit", "range", "colourBy"];

// Throws with a text for the user where there is no WebGL 2.
export function cloudRenderer(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("this browser offers no WebGL 2; turn on graphics acceleration, or use another browser");
    const program = link(gl);
    const place = Object.fromEntries(UNIFORMS.map((name) => [name, gl.getUniformLocation(program, name)]));
    const textures = [0, 1, 2].map(() => gl.createTexture());
    let size = null;

    // spans: of depthSpans(); ramp: 256 RGBA colours, far to near.
    function load({ width, height, k, depth, colors }, spans, ramp) {
        const largest = gl.getParameter(gl.MAX_TEXTURE_SIZE);
        if (Math.max(width, height) > largest) {
            throw new Error(`got a depth map of ${width} × ${height}, this graphics driver takes ${largest} at most; make it smaller`);
        }
        const pairs = new Float32Array(2 * depth.length);
        for (let index = 0; index < depth.length; index++) {
            const known = depth[index] > 0;
            pairs[2 * index] = known ? depth[index] : 0;
            pairs[2 * index + 1] = known ? spans[index] : 0;
        }
        upload(0, width, height, gl.RG32F, gl.RG, gl.FLOAT, pairs);
        upload(1, width, height, gl.RGB8, gl.RGB, gl.UNSIGNED_BYTE, colors);
        upload(2, ramp.length / 4, 1, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(ramp));
        gl.useProgram(program);
        gl.uniform4f(place.camera, k[0], k[4], k[2], k[5]);
        gl.uniform2i(place.size, width, height);
        size = { width, height, k };
    }

    function upload(unit, width, height, stored, format, type, data) {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D, textures[unit]);
        gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
        gl.texImage2D(gl.TEXTURE_2D, 0, stored, width, height, 0, format, type, data);
        for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
        gl.uniform1i(place[UNIFORMS[unit]], unit);
    }

    // scene: {view, near, far, edge, farCut, pointSize, range, colourBy}; near, far: clipping planes.
    function draw(scene, viewport, stride) {
        gl.viewport(0, 0, viewport.width, viewport.height);
        gl.clearColor(0, 0, 0, 0);
        gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
        gl.enable(gl.DEPTH_TEST);
        gl.useProgram(program);
        ["depths", "picture", "ramp"].forEach((name, unit) => gl.uniform1i(place[name], unit));
        gl.uniformMatrix4fv(place.clip, true, clipOf(scene, viewport));
        gl.uniform1f(place.edge, scene.edge);
        gl.uniform1f(place.far, scene.farCut);
        gl.uniform1f(place.pointSize, scene.pointSize);
        gl.uniform1f(place.fit, fitScale(size, viewport));
        gl.uniform2f(place.range, ...scene.range);
        gl.uniform1i(place.colourBy, scene.colourBy);
        gl.uniform1i(place.stride, stride);
        gl.drawArrays(gl.POINTS, 0, Math.ceil(size.width / stride) * Math.ceil(size.height / stride));
    }

    function clipOf(scene, viewport) {
        return multiply(clipMatrix(size.k, size, viewport, scene.near, scene.far), scene.view);
    }

    // Waits until everything is drawn, which nothing but reading a pixel does.
    function finish() {
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    }

    // RGBA bytes by rows from the top, alpha 0 where no point is; of the picture's size.
    function picture(scene) {
        const { width, height } = size;
        const target = gl.createFramebuffer();
        const buffers = [[gl.COLOR_ATTACHMENT0, gl.RGBA8], [gl.DEPTH_ATTACHMENT, gl.DEPTH_COMPONENT24]].map(([place, format]) => {
            const buffer = gl.createRenderbuffer();
            gl.bindFramebuffer(gl.FRAMEBUFFER, target);
            gl.bindRenderbuffer(gl.RENDERBUFFER, buffer);
            gl.renderbufferStorage(gl.RENDERBUFFER, format, width, height);
            gl.framebufferRenderbuffer(gl.FRAMEBUFFER, place, gl.RENDERBUFFER, buffer);
            return buffer;
        });
        draw(scene, size, 1);
        const pixels = new Uint8Array(4 * width * height);
        gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
        gl.bindFramebuffer(gl.FRAMEBUFFER, null);
        gl.deleteFramebuffer(target);
        buffers.forEach((buffer) => gl.deleteRenderbuffer(buffer));
        return { width, height, pixels: flipped(pixels, width, height) };
    }

    function dispose() {
        textures.forEach((texture) => gl.deleteTexture(texture));
        gl.deleteProgram(program);
        gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep only some 16 contexts
    }

    return { load, draw, finish, clipOf, picture, dispose };
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
        throw new Error(`the graphics driver refused the shaders: ${why.join(" ")}`);
    }
    shaders.forEach((shader) => gl.deleteShader(shader));
    return program;
}
