// Everything that is said to ComfyUI's frontend; the other files know only this one.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const PROPERTY = "modality_forcing"; // one object among a node's properties, saved with the workflow
const MUTED = 2;
const BYPASSED = 4;

// makers: {node type: (node) => void}, called once for every new node.
export function register(makers) {
    addStyles(new URL("./modality_forcing.css", import.meta.url));
    app.registerExtension({
        name: "ModalityForcing.Widgets",
        nodeCreated: (node) => makers[node.comfyClass]?.(node),
    });
}

// Puts a widget into a node. widget: {element, minHeight, minWidth, restore?(), result?(files), dispose()}.
export function attach(node, name, widget) {
    widget.element.style.minHeight = `${widget.minHeight}px`;
    widget.element.classList.add("widget-expands"); // the older Vue renderer gives such a row the node's free height
    const added = node.addDOMWidget(name, name, widget.element, widgetOptions(widget.minHeight));
    added.serialize = false; // nor of the workflow: the positions of the saved values stay as they are
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, widget.minWidth), Math.max(node.size[1], height)]);
    chain(node, "onRemoved", () => widget.dispose());
    chain(node, "onConfigure", () => widget.restore?.());
    chain(node, "onExecuted", (output) => output?.modality_forcing && widget.result?.(output.modality_forcing));
    return added;
}

// The frontend keeps the options of removed nodes: nothing in them may lead to the widget's element.
function widgetOptions(minHeight) {
    return {
        serialize: false, // not a value of the prompt
        hideOnZoom: false,
        getMinHeight: () => minHeight,
        getValue: () => "",
        setValue: () => {},
    };
}

// Hides an ordinary widget that the user does not type into; it is saved and sent all the same.
export function hideInput(node, name) {
    const widget = findWidget(node, name);
    if (!widget) return;
    widget.hidden = true;
    widget.options.hidden = true;
    widget.computeSize = () => [0, -4]; // older canvases reserve a row for it
}

export function setting(node, key) {
    return node.properties?.[PROPERTY]?.[key];
}

export function saveSetting(node, key, value) {
    node.properties ??= {};
    node.properties[PROPERTY] = { ...node.properties[PROPERTY], [key]: value };
}

export function setInput(node, name, value) {
    const widget = findWidget(node, name);
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
    node.graph?.setDirtyCanvas?.(true, true);
}

// {value, linked}: an input's number; value is undefined where it comes from a link that cannot be followed.
export function inputValue(node, name) {
    const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
    if (slot >= 0 && node.inputs[slot].link != null) {
        return { value: linkedValue(node, slot), linked: true };
    }
    return { value: findWidget(node, name)?.value, linked: false };
}

// The modalities that are given to all samplers which a schedule node drives: {rgb, depth}.
export function givenModalities(schedule, types) {
    const [first = {}, ...others] = samplersBehind(schedule).map((sampler) => givenTo(sampler, types));
    return Object.fromEntries(Object.entries(first).filter(([modality]) => others.every((given) => modality in given)));
}

function givenTo(sampler, types) {
    const given = {};
    for (const node of conditionsBefore(sampler)) {
        const modality = types[node.type];
        if (modality && node.mode !== MUTED && node.mode !== BYPASSED) given[modality] ??= readGiven(node);
    }
    return given;
}

// The bytes of a file that a node announced. Throws with a text for the user.
export async function fetchFile({ filename, subfolder, type }, signal) {
    const query = new URLSearchParams({ filename, subfolder, type });
    const reply = await api.fetchApi(`/view?${query}`, { signal, cache: "no-store" });
    if (reply.status === 404) return null;
    if (!reply.ok) throw new Error(`the server answered ${reply.status} for ${filename}`);
    return reply.arrayBuffer();
}

// Puts a picture into ComfyUI's input folder; returns its name as the nodes take it.
export async function uploadPicture(blob, filename, subfolder) {
    const body = new FormData();
    body.append("image", new File([blob], filename, { type: blob.type }));
    body.append("subfolder", subfolder);
    body.append("type", "input");
    const reply = await api.fetchApi("/upload/image", { method: "POST", body });
    if (!reply.ok) throw new Error(`the server answered ${reply.status} to the upload`);
    const stored = await reply.json();
    return `${stored.subfolder}/${stored.name}`;
}

// Tells the change tracker that a widget changed the workflow, so that undo and "unsaved" know of it.
export function noteChange(node) {
    node.graph?.afterChange?.(node);
}

function addStyles(address) {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = address;
    document.head.append(link);
}

function chain(node, name, callback) {
    const before = node[name];
    node[name] = function (...values) {
        const result = before?.apply(this, values);
        callback(...values);
        return result;
    };
}

function findWidget(node, name) {
    return node.widgets?.find((widget) => widget.name === name);
}

function linkOf(graph, id) {
    return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id];
}

// The number behind a link: the first widget of a node that is nothing but a value, or what a subgraph's frame shows.
function linkedValue(node, slot) {
    const link = linkOf(node.graph, node.inputs[slot].link);
    if (!link) return undefined;
    const origin = node.graph.getNodeById(link.origin_id);
    if (!origin) return valueAtFrame(node.graph, link.origin_slot);
    const inputs = origin.inputs ?? [];
    if (origin.type === "Reroute") return linkedValue(origin, 0);
    const wired = inputs.find((input) => input.link != null);
    if (wired || origin.mode === MUTED || origin.mode === BYPASSED || (origin.outputs?.length ?? 0) !== 1) return undefined;
    return numberIn(origin.widgets?.[0]?.value);
}

function valueAtFrame(graph, slot) {
    const frame = allNodes(app.rootGraph ?? app.graph).find((candidate) => candidate.subgraph === graph);
    const input = frame?.inputs?.[slot];
    if (!input) return undefined;
    if (input.link != null) return linkedValue(frame, slot);
    return numberIn(findWidget(frame, input.widget?.name ?? input.name)?.value);
}

function allNodes(graph) {
    return (graph?.nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? allNodes(node.subgraph) : [])]);
}

function numberIn(value) {
    return typeof value === "number" ? value : undefined;
}

function samplersBehind(schedule) {
    const samples = (node) => node.inputs?.some((input) => /^(CONDITIONING|GUIDER)$/.test(input.type));
    const reached = walk([schedule], (node) => {
        if (samples(node)) return [];
        const links = (node.outputs ?? []).flatMap((output) => output.links ?? []);
        return links.map((id) => node.graph.getNodeById(linkOf(node.graph, id)?.target_id));
    });
    return [...reached].filter(samples);
}

function conditionsBefore(consumer) {
    return walk([consumer], (node) => (node.inputs ?? [])
        .filter((input) => input.link != null && /^(CONDITIONING|GUIDER)$/.test(input.type))
        .map((input) => node.graph.getNodeById(linkOf(node.graph, input.link)?.origin_id)));
}

// All nodes that can be reached, the first ones included.
function walk(nodes, next) {
    const seen = new Set(nodes);
    for (const node of seen) {
        for (const found of next(node)) if (found) seen.add(found);
    }
    return seen;
}

function readGiven(node) {
    const number = (name) => inputValue(node, name).value;
    const mask = node.inputs?.find((input) => input.name === "mask");
    const given = { strength: number("strength"), start: number("start_percent"), end: number("end_percent") };
    return Object.values(given).every(Number.isFinite) ? { ...given, masked: mask?.link != null } : null;
}
