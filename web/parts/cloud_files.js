// The shown points and triangles as files, as model/geometry/files.py: binary, glTF axes (x, −y, −z), the depth's unit.

// kept: of keptPoints(). colours: three bytes a point. Blob.
export function plyFile({ count, positions }, kept, colours, total) {
    const header = new TextEncoder().encode(["ply", "format binary_little_endian 1.0", `element vertex ${total}`,
        ...["x", "y", "z"].map((axis) => `property float ${axis}`),
        ...["red", "green", "blue"].map((name) => `property uchar ${name}`), "end_header", ""].join("\n"));
    const body = new DataView(new ArrayBuffer(15 * total));
    for (let point = 0, at = 0; point < count; point++) {
        if (!kept[point]) continue;
        body.setFloat32(at, positions[3 * point], true);
        body.setFloat32(at + 4, -positions[3 * point + 1], true);
        body.setFloat32(at + 8, -positions[3 * point + 2], true);
        for (let channel = 0; channel < 3; channel++) body.setUint8(at + 12 + channel, colours[3 * point + channel]);
        at += 15;
    }
    return new Blob([header, body], { type: "application/octet-stream" });
}

// Points, or the triangles all of whose corners are kept. Unlit, colours as sRGB bytes. Blob.
export function glbFile({ count, positions, faces }, kept, colours, total) {
    const places = new Uint32Array(count);
    const [xyz, rgba] = [new Float32Array(3 * total), new Uint8Array(4 * total)];
    const [low, high] = [[Infinity, Infinity, Infinity], [-Infinity, -Infinity, -Infinity]];
    for (let point = 0, place = 0; point < count; point++) {
        if (!kept[point]) continue;
        for (let axis = 0; axis < 3; axis++) {
            const value = xyz[3 * place + axis] = (axis ? -1 : 1) * positions[3 * point + axis];
            if (value < low[axis]) low[axis] = value;
            if (value > high[axis]) high[axis] = value;
            rgba[4 * place + axis] = colours[3 * point + axis];
        }
        rgba[4 * place + 3] = 255;
        places[point] = place++;
    }
    const corners = faces ? triangles(faces, kept, places) : null;
    const views = [[xyz, 34962], [rgba, 34962], ...(corners ? [[corners, 34963]] : [])];
    const accessors = [
        { bufferView: 0, componentType: 5126, count: total, type: "VEC3", min: low, max: high },
        { bufferView: 1, componentType: 5121, normalized: true, count: total, type: "VEC4" },
        ...(corners ? [{ bufferView: 2, componentType: 5125, count: corners.length, type: "SCALAR" }] : []),
    ];
    return glb(views, accessors, corners ? { indices: 2, mode: 4 } : { mode: 0 });
}

function triangles(faces, kept, places) {
    const corners = [];
    for (let at = 0; at < faces.length; at += 3) {
        const face = [faces[at], faces[at + 1], faces[at + 2]];
        if (face.every((point) => kept[point])) corners.push(...face.map((point) => places[point]));
    }
    return Uint32Array.from(corners);
}

function glb(views, accessors, primitive) {
    let length = 0;
    const bufferViews = views.map(([{ byteLength }, target]) => {
        const view = { buffer: 0, byteOffset: length, byteLength, target };
        length += byteLength;
        return view;
    });
    const content = {
        asset: { version: "2.0", generator: "Modality Forcing" },
        extensionsUsed: ["KHR_materials_unlit"],
        scene: 0, scenes: [{ nodes: [0] }], nodes: [{ mesh: 0 }],
        materials: [{ doubleSided: true, extensions: { KHR_materials_unlit: {} } }],
        meshes: [{ primitives: [{ attributes: { POSITION: 0, COLOR_0: 1 }, material: 0, ...primitive }] }],
        buffers: [{ byteLength: length }], bufferViews, accessors,
    };
    let text = JSON.stringify(content);
    text += " ".repeat((4 - (text.length % 4)) % 4);
    const json = new TextEncoder().encode(text);
    const head = (...numbers) => Uint32Array.from(numbers);
    const [JSON_CHUNK, BIN_CHUNK] = [0x4e4f534a, 0x004e4942];
    return new Blob([
        head(0x46546c67, 2, 12 + 8 + json.length + 8 + length), head(json.length, JSON_CHUNK), json,
        head(length, BIN_CHUNK), ...views.map(([data]) => data),
    ], { type: "model/gltf-binary" });
}
