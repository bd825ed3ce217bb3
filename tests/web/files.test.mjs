// ComfyUI loads every .js of the folder and has browsers ask again for .js and .css alone after an update of the pack.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { loadTables } from "../../web/maths/colour_maps.js";

const WEB = new URL("../../web/", import.meta.url);
const files = readdirSync(WEB, { recursive: true }).map((name) => name.replaceAll("\\", "/"));
const modules = files.filter((name) => name.endsWith(".js"));
const text = (name) => readFileSync(new URL(name, WEB), "utf8");

test("every module is a .js, and imports modules that are there", () => {
    assert.deepEqual(files.filter((name) => name.endsWith(".mjs")), []);
    for (const name of modules) {
        for (const [, path] of text(name).matchAll(/from "(\..*?)"/g)) {
            if (path.startsWith("../../scripts/")) continue; // the frontend's own
            assert.ok(path.endsWith(".js") && existsSync(new URL(path, new URL(name, WEB))), `${name}: ${path}`);
        }
    }
});

test("nothing but modality_forcing.js does anything when it is loaded", () => {
    for (const name of modules) {
        const calls = text(name).split("\n").filter((line) => /^(?!layout)[a-z]\w*(\.\w+)*\(/.test(line));
        assert.deepEqual(calls, name === "modality_forcing.js" ? ["register({", "offerExamples();", "leaveMutedModelsAlone();"] : [], name);
    }
});

test("colour tables: a failed fetch is tried again, a good one is kept", async () => {
    const original = globalThis.fetch;
    const replies = [() => { throw new TypeError("no connection"); }, () => new Response("", { status: 502 }), () => Response.json({ a: [] })];
    const asked = [];
    globalThis.fetch = async (address, options) => { asked.push(options.cache); return replies.shift()(); };
    try {
        await assert.rejects(loadTables(), /no connection/);
        await assert.rejects(loadTables(), /502/);
        assert.deepEqual(await loadTables(), { a: [] });
        assert.deepEqual(await loadTables(), { a: [] });
        assert.deepEqual(asked, ["no-cache", "no-cache", "no-cache"]);
    } finally {
        globalThis.fetch = original;
    }
});
