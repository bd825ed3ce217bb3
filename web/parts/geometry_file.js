// What a node sends of one image; model/geometry/browser_packets.py states the layout.

import { t } from "./texts.js";

const FORMAT = "modality_forcing_geometry";
const VERSION = 2;

// {kind: "depth" | "points" | "mesh", scene, width, height, k: nine numbers, colors: Uint8Array, three a point} with
//   depth   depth, and uncertainty where there is one: Float32Array by rows, NaN where not valid
//   points  positions: Float32Array, three a point; spacing: Float32Array
//   mesh    positions; faces: Uint32Array, three a face
// Throws with a text for the user where the bytes are something else.
export function parseGeometry(buffer) {
    const { content, end } = readHeader(buffer);
    const { kind, scene, width, height, intrinsics: k } = content;
    const layout = layoutOf(content);
    const expected = end + layout.reduce((sum, [, size, count]) => sum + size * count, 0);
    if (buffer.byteLength !== expected) {
        throw new Error(t("got a geometry file of {got} bytes, expected {expected}; run the graph again", { got: buffer.byteLength, expected }));
    }
    const image = { kind, scene, width, height, k };
    let start = end;
    for (const [name, size, count] of layout) {
        image[name] = readArray(buffer, start, count, name === "faces" ? Uint32Array : size === 1 ? Uint8Array : Float32Array);
        start += size * count;
    }
    return image;
}

// [name, bytes of an entry, number of entries]
function layoutOf({ kind, width, height, points, faces, uncertainty }) {
    if (kind === "points") return [["positions", 4, 3 * points], ["spacing", 4, points], ["colors", 1, 3 * points]];
    if (kind === "mesh") return [["positions", 4, 3 * points], ["faces", 4, 3 * faces], ["colors", 1, 3 * points]];
    const pixels = width * height;
    return [["depth", 4, pixels], ...(uncertainty ? [["uncertainty", 4, pixels]] : []), ["colors", 1, 3 * pixels]];
}

function readHeader(buffer) {
    const length = buffer.byteLength >= 4 ? new DataView(buffer).getUint32(0, true) : 0;
    const wrong = new Error(t("this is not a geometry file of Modality Forcing; run the graph again"));
    if (length < 2 || 4 + length > buffer.byteLength || length % 4) throw wrong;
    let content;
    try {
        content = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    } catch {
        throw wrong;
    }
    if (content.format !== FORMAT) throw wrong;
    if (content.version !== VERSION) {
        throw new Error(t("got geometry of version {got}, expected {expected}; reload this page", { got: content.version, expected: VERSION }));
    }
    return { content, end: 4 + length };
}

// The file is little-endian, as is every machine that has a browser today; the others get their bytes swapped.
function readArray(buffer, start, count, Type) {
    const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
    if (littleEndian || Type === Uint8Array) return new Type(buffer, start, count);
    const view = new DataView(buffer, start);
    const read = Type === Uint32Array ? "getUint32" : "getFloat32";
    return Type.from({ length: count }, (_, index) => view[read](4 * index, true));
}
