// The widgets' texts in the language of the frontend. English texts are their own keys in web/texts/<language>.json.

const LANGUAGES = ["de", "es", "fr", "ja", "ko", "zh"];
let texts = {};

// Once, before the first widget is made. Others than LANGUAGES, English among them, need no file.
export async function loadTexts(language) {
    if (!LANGUAGES.includes(language)) return;
    const reply = await fetch(new URL(`../texts/${language}.json`, import.meta.url), { cache: "no-cache" });
    if (!reply.ok) throw new Error(`the server answered ${reply.status} for texts/${language}.json`);
    texts = await reply.json();
}

// The text in that language, or as it is. `{name}` stands for a value of that name.
export function t(text, values = {}) {
    return (texts[text] ?? text).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
