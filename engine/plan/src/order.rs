//! The order steps run in, and the cycles that leave none.

use std::collections::HashMap;

use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use swath_flow::{
    Action, Data, EdgeSource, Expression, Flow, Node, Part, Reference, Span, Written, read_edge, read_string,
};

/// What each step waits for, by position in the flow, and where that is written.
pub(crate) struct Order {
    /// Positions in an order they can run in; `None` when there is a cycle.
    pub order: Option<Vec<usize>>,
    /// Each cycle: its steps in order, and where the first is led back to.
    pub cycles: Vec<(Vec<usize>, Span)>,
}

/// Finds the order. Names that do not exist lead nowhere: they are reported elsewhere.
pub(crate) fn order(flow: &Flow, index: &HashMap<String, usize>) -> Order {
    let mut graph: DiGraph<(), Span> = DiGraph::with_capacity(flow.steps.len(), flow.steps.len());
    let nodes: Vec<NodeIndex> = flow.steps.iter().map(|_| graph.add_node(())).collect();
    for (at, step) in flow.steps.iter().enumerate() {
        let mut link = |id: &str, span: Span| {
            if let Some(from) = index.get(id) {
                graph.add_edge(nodes[*from], nodes[at], span);
            }
        };
        for edge in &step.inputs {
            for from in &edge.from {
                if let EdgeSource::Output { step, .. } = &from.value {
                    link(step, from.span);
                }
            }
        }
        for after in &step.after {
            link(after, after.span);
        }
        if let Some(each) = &step.each
            && let Some(EdgeSource::Output { step, .. }) = each.as_str().and_then(read_edge)
        {
            link(&step, each.span);
        }
        let is_action = !matches!(step.action, Action::Missing(_));
        for node in [&step.with, &step.each, &step.when].into_iter().flatten().filter(|_| is_action) {
            expressions(node, &mut |reference, span| {
                if let Reference::Output { step, .. } = reference {
                    link(&step, span);
                }
            });
        }
    }
    if let Ok(sorted) = toposort(&graph, None) {
        // Steps that could run at once stay in the order of the text, so that plans read as flows do.
        return Order { order: Some(stable(&graph, sorted.len())), cycles: Vec::new() };
    }
    let mut cycles = Vec::new();
    for component in kosaraju_scc(&graph) {
        let first = component.iter().copied().min().unwrap_or_default();
        let looped = component.len() > 1 || graph.find_edge(first, first).is_some();
        if looped {
            cycles.push(shortest(&graph, &component, first));
        }
    }
    cycles.sort();
    Order {
        order: None,
        cycles: cycles.into_iter().map(|(steps, start)| (steps, Span::new(start.0, start.1))).collect(),
    }
}

/// Kahn's algorithm with a heap: of the steps that could run next, the first of the text.
fn stable(graph: &DiGraph<(), Span>, count: usize) -> Vec<usize> {
    use std::cmp::Reverse;
    let mut waits: Vec<usize> = vec![0; count];
    for edge in graph.raw_edges() {
        waits[edge.target().index()] += 1;
    }
    let mut ready: std::collections::BinaryHeap<Reverse<usize>> =
        (0..count).filter(|at| waits[*at] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse(at)) = ready.pop() {
        order.push(at);
        for next in graph.neighbors(NodeIndex::new(at)) {
            waits[next.index()] -= 1;
            if waits[next.index()] == 0 {
                ready.push(Reverse(next.index()));
            }
        }
    }
    order
}

type Cycle = (Vec<usize>, (usize, usize));

/// The shortest way from a step back to itself, within its component; and the place that closes it.
fn shortest(graph: &DiGraph<(), Span>, component: &[NodeIndex], first: NodeIndex) -> Cycle {
    let inside: std::collections::HashSet<NodeIndex> = component.iter().copied().collect();
    let mut came: HashMap<NodeIndex, NodeIndex> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([first]);
    while let Some(at) = queue.pop_front() {
        let mut next: Vec<NodeIndex> = graph.neighbors(at).filter(|next| inside.contains(next)).collect();
        next.sort();
        for next in next {
            if next == first {
                let mut steps = vec![at.index()];
                let mut back = at;
                while back != first {
                    back = came[&back];
                    steps.push(back.index());
                }
                steps.reverse();
                let span =
                    graph.find_edge(at, first).and_then(|edge| graph.edge_weight(edge)).copied().unwrap_or_default();
                return (steps, (span.start, span.end));
            }
            if next != first && !came.contains_key(&next) {
                came.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    (vec![first.index()], (0, 0))
}

/// Calls `see` for everything that the expressions of a value read.
pub(crate) fn expressions(node: &Node, see: &mut dyn FnMut(Reference, Span)) {
    match &node.data {
        Data::String(text) if text.contains("${") => {
            let mut one = |inside: &str| {
                if let Ok(expression) = Expression::parse(inside) {
                    expression.references().into_iter().for_each(|reference| see(reference, node.span));
                }
            };
            match read_string(text) {
                Ok(Written::Expression(inside, _)) => one(&inside),
                Ok(Written::Parts(parts)) => parts.iter().for_each(|part| {
                    if let Part::Expression(inside, _) = part {
                        one(inside);
                    }
                }),
                _ => {}
            }
        }
        Data::List(items) => items.iter().for_each(|item| expressions(item, see)),
        Data::Mapping(entries) => entries.iter().for_each(|(_, item)| expressions(item, see)),
        _ => {}
    }
}
