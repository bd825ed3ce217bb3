// The nodes of a saved workflow, those in subgraphs included.
export function savedNodes(workflow) {
    const graphs = [workflow, ...(workflow.definitions?.subgraphs ?? [])];
    return graphs.flatMap((graph) => graph.nodes ?? []);
}
