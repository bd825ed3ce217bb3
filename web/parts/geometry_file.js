// The file in which a geometry reaches the browser; nodes/previews.py states the layout.

const FORMAT = "modality_forcing_geometry";
const VERSION = 1;

// {width, height, k: nine numbers, depth: Float32Array (NaN where not valid), colors: Uint8Array, three a pixel}.
// Throws with a text for the user where the file is something else.
export function parseGeometry(buffer) {
    const header = readHeader(buffer);
    const { width, height, intrinsics } = header.content;
    const pixels = width * height;
    const expected = header.end + pixels * 7;
    if (buffer.byteLength !== expected) {
        throw new Error(`got a geometry file of ${buffer.byteLength} bytes, expected ${expected}; run the graph again`);
    }
    return {
        width,
        height,
        k: intrinsics,
        depth: readFloats(buffer, header.end, pixels),
        colors: new Uint8Array(buffer, header.end + pixels * 4, pixels * 3),
    };
}

function readHeader(buffer) {
    const length = buffer.byteLength >= 4 ? new DataView(buffer).getUint32(0, true) : 0;
    const wrong = new Error("this is not a geometry file of Modality Forcing; run the graph again");
    if (length < 2 || 4 + length > buffer.byteLength || length % 4) throw wrong;
    let content;
    try {
        content = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    } catch {
        throw wrong;
    }
    if (content.format !== FORMAT) throw wrong;
    if (content.version !== VERSION) {
        throw new Error(`got geometry of version ${content.version}, expected ${VERSION}; reload this page`);
    }
    return { content, end: 4 + length };
}

// The file is little-endian, as is every machine that has a browser today; the others get their bytes swapped.
function readFloats(buffer, start, count) {
    const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
    if (littleEndian) return new Float32Array(buffer, start, count);
    const view = new DataView(buffer, start);
    return Float32Array.from({ length: count }, (_, index) => view.getFloat32(4 * index, true));
}
