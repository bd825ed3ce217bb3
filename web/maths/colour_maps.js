// Colour maps: grey, magma, turbo and spectral, as model/depth/colour_maps.py; web/colour_maps.json is a copy of its tables (a test compares them).

// 256 rows of [r, g, b] in 0..1.
export function table(tables, name) {
    if (name === "grey") return Array.from({ length: 256 }, (_, row) => [row / 255, row / 255, row / 255]);
    return tables[name];
}

// [r, g, b] in 0..1 of a value in 0..1, linear between the rows.
export function colour(rows, value) {
    const position = Math.min(1, Math.max(0, value)) * (rows.length - 1);
    const row = Math.min(Math.floor(position), rows.length - 2);
    return rows[row].map((low, channel) => low + (rows[row + 1][channel] - low) * (position - row));
}

// Bytes of `size` colours, RGBA, for pictures and textures.
export function colourBytes(rows, size) {
    const bytes = new Uint8ClampedArray(4 * size);
    for (let index = 0; index < size; index++) {
        const [r, g, b] = colour(rows, index / (size - 1));
        bytes.set([255 * r + 0.5, 255 * g + 0.5, 255 * b + 0.5, 255].map(Math.floor), 4 * index);
    }
    return bytes;
}

let loading;

// The tables, fetched once for the page; a fetch that failed is tried again by the next who asks.
export function loadTables() {
    loading ??= fetchTables().catch((error) => {
        loading = undefined;
        throw error;
    });
    return loading;
}

// The host names no age for .json: without a question to the server an update of the pack would keep old tables.
async function fetchTables() {
    const reply = await fetch(new URL("../colour_maps.json", import.meta.url), { cache: "no-cache" });
    if (!reply.ok) throw new Error(`the server answered ${reply.status} for colour_maps.json`);
    return reply.json();
}
