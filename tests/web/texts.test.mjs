// The widgets' texts in other languages say what the widgets say: no more, no less.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { loadTexts, t } from "../../web/parts/texts.js";

const WEB = new URL("../../web/", import.meta.url);
const read = (name) => readFileSync(new URL(name, WEB), "utf8");
const files = readdirSync(WEB, { recursive: true }).map((name) => name.replaceAll("\\", "/"));
const english = new Set(files.filter((name) => name.endsWith(".js"))
    .flatMap((name) => [...read(name).matchAll(/\bt\(("(?:[^"\\]|\\.)*")/g)].map(([, literal]) => JSON.parse(literal))));
const languages = readdirSync(new URL("../../locales/", import.meta.url)).sort();
const marks = (text) => [...text.matchAll(/\{\w+\}/g)].map(String).sort();

test("the languages are those of the nodes", () => {
    assert.deepEqual(files.filter((name) => name.startsWith("texts/")).sort(), languages.map((language) => `texts/${language}.json`));
});

test("no text is missing, none is left over, and each names the same values", () => {
    assert.ok(english.size > 100);
    for (const language of languages) {
        const texts = JSON.parse(read(`texts/${language}.json`));
        assert.deepEqual(Object.keys(texts).sort(), [...english].sort(), language);
        for (const [text, translated] of Object.entries(texts)) {
            assert.deepEqual(marks(translated), marks(text), `${language}: ${text}`);
            assert.ok(translated && translated === translated.trim(), `${language}: ${text}`);
            // One word may be the same in two languages, as Linear and Axes; a phrase is not.
            if (/\w \w/.test(text.replace(/\{\w+\}/g, ""))) assert.notEqual(translated, text, language);
        }
    }
});

test("every text is shown by t()", () => {
    const shown = /(?<!\.)\b(?:button|toggle|choice|slider|numberField)\("(?!PNG|PLY|GLB|‹|›)|(?:title|"aria-label"): "|throw new Error\(["`]/;
    for (const name of files.filter((file) => /^(parts|widgets)\/.*\.js$/.test(file) && file !== "parts/texts.js")) {
        assert.deepEqual(read(name).split("\n").filter((line) => shown.test(line)), [], name);
    }
});

test("texts are English until a language is loaded; one without a file stays English, and a failed fetch says so", async () => {
    const original = globalThis.fetch;
    let status = 200;
    globalThis.fetch = async (address) => new Response(status === 200 ? readFileSync(address) : "", { status });
    try {
        await loadTexts("en");
        await loadTexts("pt-BR");
        assert.equal(t("depth {near} to {far}", { near: 1, far: 2.5 }), "depth 1 to 2.5");
        status = 502;
        await assert.rejects(loadTexts("de"), /502/);
        assert.equal(t("Edges"), "Edges");
        status = 200;
        await loadTexts("de");
        assert.equal(t("depth {near} to {far}", { near: 1, far: 2.5 }), "Tiefe 1 bis 2.5");
        assert.equal(t("of an error, in English"), "of an error, in English");
    } finally {
        globalThis.fetch = original;
    }
});
