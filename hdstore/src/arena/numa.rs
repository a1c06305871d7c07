//! The machine's NUMA nodes: from sysfs, from libhwloc (feature `hwloc`), or given.
//!
//! A stream belongs to one node; its tables and entries lie in that node's arena, whose memory is asked for
//! by `mbind`. A machine that says nothing is one node.

use std::path::Path;

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaNode {
    /// The system's number of the node.
    pub number: u32,
    /// Its processors.
    pub cpus: Vec<u32>,
}

/// The NUMA nodes with memory that a store spreads over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    nodes: Vec<NumaNode>,
    /// Whether placement is asked from the system: not for a topology that was made up.
    bind: bool,
}

impl Topology {
    /// The machine's topology.
    pub fn detect() -> Topology {
        #[cfg(feature = "hwloc")]
        if let Some(topology) = from_hwloc() {
            return topology;
        }
        Topology::from_sysfs(Path::new("/sys/devices/system/node"))
    }

    /// The topology that a sysfs tree describes (`nodeN/cpulist`); one node where there is none.
    pub fn from_sysfs(root: &Path) -> Topology {
        let mut nodes = Vec::new();
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("node"))
                .and_then(|n| n.parse().ok());
            let Some(number) = number else { continue };
            let cpus = std::fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
            let has_memory = std::fs::read_to_string(entry.path().join("meminfo"))
                .map_or(true, |text| !text.contains("MemTotal:              0 kB"));
            if has_memory {
                nodes.push(NumaNode { number, cpus: parse_cpu_list(&cpus) });
            }
        }
        nodes.sort_by_key(|node| node.number);
        if nodes.is_empty() {
            nodes.push(NumaNode { number: 0, cpus: Vec::new() });
        }
        // With one node there is nothing to ask for.
        let bind = nodes.len() > 1;
        Topology { nodes, bind }
    }

    /// A made-up topology of `nodes` nodes: memory is split as on such a machine, but not placed.
    pub fn made_up(nodes: u32) -> Topology {
        let node = |number| NumaNode { number, cpus: Vec::new() };
        Topology { nodes: (0..nodes).map(node).collect(), bind: false }
    }

    /// The nodes, by number.
    pub fn nodes(&self) -> &[NumaNode] {
        &self.nodes
    }

    pub(crate) fn binds(&self) -> bool {
        self.bind
    }
}

fn parse_cpu_list(text: &str) -> Vec<u32> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

#[cfg(feature = "hwloc")]
fn from_hwloc() -> Option<Topology> {
    use hwlocality::object::types::ObjectType;
    let topology = hwlocality::Topology::new().ok()?;
    let nodes: Vec<NumaNode> = topology
        .objects_with_type(ObjectType::NUMANode)
        .filter_map(|node| {
            let cpus = node
                .cpuset()?
                .iter_set()
                .filter_map(|cpu| u32::try_from(usize::from(cpu)).ok())
                .collect();
            Some(NumaNode { number: u32::try_from(node.os_index()?).ok()?, cpus })
        })
        .collect();
    let bind = nodes.len() > 1;
    (!nodes.is_empty()).then_some(Topology { nodes, bind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_tree_of_two_nodes_is_read() {
        let root = std::env::temp_dir().join(format!("hdstore-numa-{}", std::process::id()));
        for (node, cpus) in [("node0", "0-3,8-11\n"), ("node1", "4-7,12\n")] {
            std::fs::create_dir_all(root.join(node)).expect("a directory");
            std::fs::write(root.join(node).join("cpulist"), cpus).expect("a file");
        }
        std::fs::create_dir_all(root.join("power")).expect("a directory");
        let topology = Topology::from_sysfs(&root);
        std::fs::remove_dir_all(&root).expect("it is there");
        assert_eq!(topology.nodes().len(), 2);
        assert_eq!(topology.nodes()[0].cpus, [0, 1, 2, 3, 8, 9, 10, 11]);
        assert_eq!(topology.nodes()[1].cpus, [4, 5, 6, 7, 12]);
    }

    #[test]
    fn a_machine_that_says_nothing_is_one_node() {
        assert_eq!(Topology::from_sysfs(Path::new("/nonexistent")).nodes().len(), 1);
    }
}
