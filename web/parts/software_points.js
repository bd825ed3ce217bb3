// Draws points on a 2D canvas. WebGL that is drawn by the CPU takes a millisecond for a thousand points, this loop for
// twenty thousand: it draws the moving picture where the graphics card does not.

const LARGEST = 64; // screen pixels, as in cloud_shaders.js
const FRAME_MS = 50;
const FIRST_RATE = 5000; // points in a millisecond, before one is measured

// canvas: in CSS pixels. Returns {draw, rate(): points in a millisecond}.
export function softwarePoints(canvas) {
    const context = canvas.getContext("2d");
    let image = null;
    let nearness = null;
    let rate = FIRST_RATE;

    // colours: of colourWords(); clip: from source axes to clip space; focal: screen pixels of the length 1 at the
    // distance 1, times the points' size; near: what is nearer is not drawn.
    function draw({ count, positions, spacing }, kept, colours, { clip, focal, near }, { width, height }) {
        if (image?.width !== width || image.height !== height) {
            Object.assign(canvas, { width, height });
            image = context.createImageData(width, height);
            nearness = new Float32Array(width * height);
        }
        const words = new Uint32Array(image.data.buffer);
        const every = Math.max(1, Math.ceil(count / (rate * FRAME_MS)));
        const began = performance.now();
        words.fill(0);
        nearness.fill(0);
        splat({ count, every, positions, spacing, kept, colours, clip, near, size: focal * Math.sqrt(every) }, { words, nearness, width, height });
        rate = count / every / Math.max(0.1, performance.now() - began);
        context.putImageData(image, 0, 0);
    }

    return { draw, rate: () => rate };
}

// Squares of about the size that the shader gives them, the nearest on top. target: {words: RGBA as one number a pixel,
// nearness: 1 / distance, 0 where nothing is, width, height}.
export function splat({ count, every, positions, spacing, kept, colours, clip, near, size }, { words, nearness, width, height }) {
    const [a, b, c, d] = [0, 1, 2, 3].map((column) => ((clip[column] + clip[12 + column]) * width) / 2);
    const [e, f, g, h] = [0, 1, 2, 3].map((column) => ((clip[12 + column] - clip[4 + column]) * height) / 2);
    const [m, n, o, p] = clip.slice(12);
    for (let point = 0; point < count; point += every) {
        if (!kept[point]) continue;
        const x = positions[3 * point];
        const y = positions[3 * point + 1];
        const z = positions[3 * point + 2];
        const distance = m * x + n * y + o * z + p;
        if (!(distance > near)) continue;
        const nearer = 1 / distance;
        const half = Math.min(LARGEST, Math.max(1, size * spacing[point] * nearer)) / 2;
        const column = (a * x + b * y + c * z + d) * nearer;
        const row = (e * x + f * y + g * z + h) * nearer;
        const left = Math.max(0, Math.round(column - half));
        const right = Math.min(width, Math.round(column + half));
        const bottom = Math.min(height, Math.round(row + half));
        const colour = colours[point];
        for (let top = Math.max(0, Math.round(row - half)); top < bottom; top++) {
            for (let at = top * width + left, end = top * width + right; at < end; at++) {
                if (nearer <= nearness[at]) continue;
                nearness[at] = nearer;
                words[at] = colour;
            }
        }
    }
}

// One number for each three bytes, opaque.
export function colourWords(colours) {
    const words = new Uint32Array(colours.length / 3);
    const bytes = new Uint8Array(words.buffer);
    for (let point = 0; point < words.length; point++) {
        bytes[4 * point] = colours[3 * point];
        bytes[4 * point + 1] = colours[3 * point + 1];
        bytes[4 * point + 2] = colours[3 * point + 2];
        bytes[4 * point + 3] = 255;
    }
    return words;
}
