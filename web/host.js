// Everything that is said to ComfyUI's frontend; the other files know only this one.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

import { livingElement } from "./parts/living_element.js";
import { loadTexts, t } from "./parts/texts.js";

const PROPERTY = "modality_forcing"; // one object among a node's properties, saved with the workflow
const OUTPUT = "modality_forcing"; // and among what a node that ran tells the browser
export const MUTED = 2;
const BYPASSED = 4;
const PACK = new URL(import.meta.url).pathname.split("/").at(-2); // the name of the pack's folder

const inPage = new Set(); // living elements
const livingOf = new WeakMap(); // node -> its living element
const shownWidgets = new Set(); // {node, widget} that run
// Results by the workflow they were made in, which its change tracker stands for: a tab that comes back finds them.
const results = new WeakMap(); // change tracker -> Map(execution id -> {items, index, number})
let resultNumber = 0;
let lastPrompt = {}; // {id, workflow: promise of its workflow's id}
const sending = new Set(); // promises of answers to prompts
const senders = new Map(); // prompt id -> reference to the change tracker of the workflow that it was sent from

// makers: {node type: (node) => void}, called once for every new node.
export function register(makers) {
    addStyles(new URL("./modality_forcing.css", import.meta.url));
    app.registerExtension({
        name: "ModalityForcing.Widgets",
        init: () => loadTexts(app.extensionManager.setting.get("Comfy.Locale")),
        nodeCreated: (node) => makers[node.comfyClass]?.(node),
        setup: () => {
            app.canvas.canvas.addEventListener("litegraph:set-graph", () => { setTimeout(checkPage); });
            // A workflow becomes the active one only after its nodes are there.
            app.extensionManager.workflow.$onAction(({ name, after }) => name === "openWorkflow" && after(afterLoading));
        },
        afterConfigureGraph: () => { setTimeout(afterLoading); },
    });
    rememberSenders();
    sortTemplates();
    api.addEventListener("executed", ({ detail }) => detail.output?.[OUTPUT] && keepResult(detail));
    // The frontend zooms the graph by two fingers wherever they are, and hears of them before any element could object.
    window.addEventListener("touchmove", (event) => event.target.closest?.(".mf-widget") && event.stopPropagation(), { capture: true, passive: true });
    api.addEventListener("reconnected", () => shownWidgets.forEach(({ widget }) => widget.retry?.()));
}

// Puts a widget into a node. widget: {element, minHeight, minWidth, start(), stop(), restore?(), result?(record),
// retry?()}. It runs while its element is in the page and its graph is shown, which copies on the clipboard, nodes of closed
// tabs and of subgraphs that nobody looks into are not. record: {items, index} as the node announced, or null.
export function attach(node, name, widget) {
    const entry = { node, widget };
    const living = livingElement({
        start: () => {
            shownWidgets.add(entry);
            widget.start();
            showResult(entry);
        },
        stop: () => {
            shownWidgets.delete(entry);
            widget.stop();
        },
        // The canvas keeps the hidden elements of the graphs that it does not show.
        wanted: () => app.canvas?.graph?.getNodeById(node.id) === node,
        inPage,
    }, widget.element);
    livingOf.set(node, living);
    living.node = node;
    living.element.style.minHeight = `${widget.minHeight}px`;
    living.element.classList.add("mf-host", "widget-expands"); // the older Vue renderer gives such a row the free height
    const added = node.addDOMWidget(name, name, living.element, widgetOptions(widget.minHeight));
    // As wide as its node: the side panel of newer frontends would leave its own width on it.
    Object.defineProperty(added, "width", { get: () => undefined, set: () => {} });
    added.serialize = false; // nor of the workflow: the positions of the saved values stay as they are
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, widget.minWidth), Math.max(node.size[1], height)]);
    chain(node, "onAdded", living.wake);
    chain(node, "onRemoved", living.release);
    chain(node, "onConfigure", () => widget.restore?.());
    living.element.addEventListener("keydown", undoInInputs);
    return added;
}

function afterLoading() {
    checkPage();
    showResults();
}

function checkPage() {
    for (const living of [...inPage]) {
        // The older Vue renderer goes on showing the element of a node that undo has replaced by one of the same id.
        const heir = livingOf.get(app.canvas.graph?.getNodeById(living.node.id));
        if (heir && heir !== living && !heir.element.isConnected) living.element.replaceWith(heir.element);
        living.check();
    }
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
    if (slot >= 0 && node.isInputConnected(slot)) {
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

// The bytes of one image of a result; null where the server has it no longer. Throws with a text for the user.
export async function fetchImage(result, index, signal) {
    const reply = await api.fetchApi(`/modality_forcing/preview?${new URLSearchParams({ result, index })}`, { signal });
    if (reply.status === 404) return null;
    if (!reply.ok) throw new Error(t("the server answered {status}", { status: reply.status }));
    return reply.arrayBuffer();
}

// Puts a picture into ComfyUI's input folder; returns its name as the nodes take it.
export async function uploadPicture(blob, filename, subfolder) {
    const body = new FormData();
    body.append("image", new File([blob], filename, { type: blob.type }));
    body.append("subfolder", subfolder);
    body.append("type", "input");
    const reply = await api.fetchApi("/upload/image", { method: "POST", body });
    if (!reply.ok) throw new Error(t("the server answered {status} to the upload", { status: reply.status }));
    const stored = await reply.json();
    return `${stored.subfolder}/${stored.name}`;
}

// Tells the change tracker that a change by hand is complete, so that undo and "unsaved" know of it.
export function noteChange() {
    const tracker = activeTracker();
    if (tracker?.captureCanvasState) tracker.captureCanvasState();
    else tracker?.checkState();
}

// The frontend leaves Ctrl+Z to inputs, where text has a history of its own. A slider has none.
function undoInInputs(event) {
    if (event.target.type !== "range" || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "z" && !event.shiftKey) activeTracker()?.undo();
    else if (key === "y" || key === "z") activeTracker()?.redo();
    else return;
    event.preventDefault();
}

function activeTracker() {
    return app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
}

async function keepResult(detail) {
    const number = ++resultNumber; // by arrival: where a result belongs may be known later than of the one after it
    const tracker = await trackerOf(detail.prompt_id);
    if (!tracker) return;
    if (!results.has(tracker)) results.set(tracker, new Map());
    const kept = results.get(tracker);
    const id = String(detail.display_node ?? detail.node);
    if (kept.get(id)?.number > number) return;
    const items = detail.output[OUTPUT];
    const index = Math.min(kept.get(id)?.index ?? 0, items[0].count - 1);
    kept.set(id, { items, index, number });
    showResults();
}

// The tracker of the workflow that a prompt was made of: known of prompts from this page; of others, as after the page was
// loaded anew, the server knows the workflow's id, which two tabs of one file have in common.
async function trackerOf(promptId) {
    await Promise.all(sending); // a result may come before the answer that names its prompt
    if (senders.has(promptId)) return senders.get(promptId).deref();
    const id = await workflowOf(promptId);
    const own = id === undefined ? [] : trackers(id);
    return own.find((tracker) => tracker === activeTracker()) ?? own[0];
}

// Remembers which workflow each prompt is sent from. The frontend notes the one that is active when the answer comes.
function rememberSenders() {
    const send = api.queuePrompt;
    api.queuePrompt = function (...values) {
        const tracker = activeTracker();
        const answer = send.apply(this, values);
        const noted = answer.then(({ prompt_id: id }) => tracker && senders.set(id, new WeakRef(tracker)), () => {})
            .finally(() => sending.delete(noted));
        sending.add(noted);
        return answer;
    };
}

// ComfyUI lists a pack's templates as the file system happens to; ours are numbered.
function sortTemplates() {
    const list = api.getWorkflowTemplates;
    api.getWorkflowTemplates = async function (...values) {
        const templates = await list.apply(this, values);
        templates[PACK]?.sort();
        return templates;
    };
}

// The trackers of the open workflows, or of those with this id: of two tabs of one file, where the frontend keeps its id.
function trackers(id) {
    const open = (app.extensionManager?.workflow?.openWorkflows ?? []).map((workflow) => workflow.changeTracker).filter(Boolean);
    return id === undefined ? open : open.filter((tracker) => tracker.activeState?.id === id);
}

// The id of a prompt's workflow, asked of the server once for all of its nodes.
function workflowOf(promptId) {
    if (lastPrompt.id !== promptId) lastPrompt = { id: promptId, workflow: askWorkflowOf(promptId) };
    return lastPrompt.workflow;
}

async function askWorkflowOf(promptId) {
    const ask = async (path) => (await api.fetchApi(path)).json();
    const { queue_running: running, queue_pending: pending } = await ask("/queue"); // what has left it is in the history
    const prompt = [...running, ...pending].find(([, id]) => id === promptId) ?? (await ask(`/history/${promptId}`))[promptId]?.prompt;
    return prompt?.[3]?.extra_pnginfo?.workflow?.id;
}

function showResults() {
    for (const entry of shownWidgets) showResult(entry);
}

function showResult({ node, widget }) {
    if (!widget.result || !node.graph) return;
    // While a tab is opened its nodes are there before the frontend calls its workflow the active one.
    const own = trackers(rootGraph()?.id);
    const tracker = own.length > 1 ? own.find((candidate) => candidate === activeTracker()) : own[0];
    if (!tracker) return;
    const kept = results.get(tracker);
    const records = executionIds(node).map((id) => kept?.get(id)).filter(Boolean);
    widget.result(records.sort((a, b) => b.number - a.number)[0] ?? null);
}

// As the server names a node: "7", or "4:7" inside the subgraph of node 4; one for each use of a subgraph.
function executionIds(node, graph = rootGraph(), path = "") {
    const own = graph === node.graph ? [`${path}${node.id}`] : [];
    return own.concat(...(graph.nodes ?? []).filter((frame) => frame.subgraph)
        .map((frame) => executionIds(node, frame.subgraph, `${path}${frame.id}:`)));
}

function rootGraph() {
    return app.rootGraph ?? app.graph;
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

// The number behind a link: the first widget of a node that is nothing but a value, or what a subgraph's frame shows.
function linkedValue(node, slot) {
    const link = node.getInputLink(slot);
    if (!link) return undefined;
    const origin = node.graph.getNodeById(link.origin_id);
    if (!origin) return valueAtFrame(node.graph, link.origin_slot);
    if (origin.type === "Reroute") return linkedValue(origin, 0);
    const wired = (origin.inputs ?? []).some((_, index) => origin.isInputConnected(index));
    if (wired || origin.mode === MUTED || origin.mode === BYPASSED || (origin.outputs?.length ?? 0) !== 1) return undefined;
    return numberIn(origin.widgets?.[0]?.value);
}

function valueAtFrame(graph, slot) {
    const frame = allNodes(rootGraph()).find((candidate) => candidate.subgraph === graph);
    const input = frame?.inputs?.[slot];
    if (!input) return undefined;
    if (frame.isInputConnected(slot)) return linkedValue(frame, slot);
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
        return (node.outputs ?? []).flatMap((_, slot) => node.getOutputNodes(slot) ?? []);
    });
    return [...reached].filter(samples);
}

function conditionsBefore(consumer) {
    return walk([consumer], (node) => (node.inputs ?? [])
        .map((input, slot) => /^(CONDITIONING|GUIDER)$/.test(input.type) && node.getInputLink(slot))
        .map((link) => link && node.graph.getNodeById(link.origin_id)));
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
    const mask = node.inputs?.findIndex((input) => input.name === "mask") ?? -1;
    const given = { strength: number("strength"), start: number("start_percent"), end: number("end_percent") };
    return Object.values(given).every(Number.isFinite) ? { ...given, masked: mask >= 0 && node.isInputConnected(mask) } : null;
}

// Calls back with a saved workflow before it is opened (after a callback that returns true the lists of files are read
// anew), and with all its nodes when they are there, those in subgraphs included.
export function onOpening(name, before, after = () => {}) {
    app.registerExtension({
        name: `ModalityForcing.${name}`,
        beforeConfigureGraph: async (workflow) => {
            if (await before(workflow)) await (app.reloadNodeDefs ?? app.refreshComboInNodes).call(app);
        },
        afterConfigureGraph: () => after([app.graph, ...(app.graph.subgraphs?.values() ?? [])].flatMap((graph) => graph.nodes)),
    });
}

export async function isInInputs(filename) {
    const query = new URLSearchParams({ filename, type: "input" });
    return (await api.fetchApi(`/view?${query}`, { cache: "no-store" })).ok;
}

// A file of this pack's workflows folder, which ComfyUI serves under the name of the pack's own folder.
export async function workflowFile(path) {
    const reply = await api.fetchApi(`/workflow_templates/${PACK}/${path}`);
    if (!reply.ok) throw new Error(t("the server answered {status} for {path}", { status: reply.status, path }));
    return reply.blob();
}

export function say(text) {
    app.extensionManager.toast.add({ severity: "info", summary: "Modality Forcing", detail: text, life: 10000 });
}
