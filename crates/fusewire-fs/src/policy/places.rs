//! Where the nodes are that the kernel knows: the names by which it came to know them, and how they stand with the rules.

use super::rules::{Effect, Policy, Standing, Subjects};
use fusewire::{Generation, NodeId};
use std::{collections::HashMap, sync::Arc};

/// A name in a directory, or the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PlaceId(u64);

const ROOT: PlaceId = PlaceId(0);

#[derive(Debug)]
struct Place {
    parent: PlaceId,
    name: Arc<[u8]>,
    /// What is there, while the kernel knows it.
    node: Option<NodeId>,
    /// Whether the name leads here. If not it was removed, but what was there is still in use.
    is_linked: bool,
    /// When the name was last seen to lead here, by [`Places::now`].
    seen: u64,
    /// Places that are below.
    children: usize,
    standing: Arc<Standing>,
    /// As of which rules.
    version: u64,
}

#[derive(Debug, Default)]
struct Known {
    lookups: u64,
    generation: Generation,
    is_directory: bool,
    /// More than one if the file has several names. One at least.
    places: Vec<PlaceId>,
    /// By what the kernel was told to close it by itself.
    closed: Option<Closed>,
}

/// What the kernel closes a node by: the list of who has access, by these rules, to what stands so.
#[derive(Clone, Debug)]
pub struct Closed {
    policy: Arc<Policy>,
    standing: Arc<Standing>,
}

impl Closed {
    /// By these rules, as what stands so.
    pub fn new(policy: &Arc<Policy>, standing: &Arc<Standing>) -> Self {
        Self { policy: policy.clone(), standing: standing.clone() }
    }

    /// Would the kernel be given the same list now? Standings of different rules say nothing about each other.
    pub fn is_same(&self, other: &Self) -> bool {
        let are_equal = Arc::ptr_eq(&self.standing, &other.standing) || self.standing == other.standing;
        Arc::ptr_eq(&self.policy, &other.policy) && are_equal || self.list() == other.list()
    }

    /// The list, and how the rest is treated.
    pub fn list(&self) -> (Vec<Subjects>, Effect) {
        self.policy.access_list(&self.standing)
    }
}

/// All places of known nodes, and their parents.
#[derive(Debug)]
pub struct Places {
    policy: Arc<Policy>,
    version: u64,
    /// Counts what may have made something allowed that was denied before.
    relaxed: u64,
    nodes: HashMap<NodeId, Known>,
    places: HashMap<PlaceId, Place>,
    index: HashMap<(PlaceId, Arc<[u8]>), PlaceId>,
    /// Counts what was seen, and numbers places by that.
    clock: u64,
}

impl Places {
    /// The root alone.
    pub fn new(policy: Arc<Policy>) -> Self {
        let root = Place {
            parent: ROOT,
            name: Arc::from(&b""[..]),
            node: Some(NodeId::ROOT),
            is_linked: true,
            seen: 0,
            children: 0,
            standing: Arc::new(policy.root()),
            version: 0,
        };
        let known = Known { lookups: 1, is_directory: true, places: vec![ROOT], ..Known::default() };
        Self {
            policy,
            version: 0,
            relaxed: 0,
            nodes: HashMap::from([(NodeId::ROOT, known)]),
            places: HashMap::from([(ROOT, root)]),
            index: HashMap::new(),
            clock: 0,
        }
    }

    /// The rules in force.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Changes whenever something may be allowed that was denied before.
    pub fn relaxed(&self) -> u64 {
        self.relaxed
    }

    /// Which use of its number a node is.
    pub fn generation(&self, node: NodeId) -> Generation {
        self.nodes.get(&node).map_or(Generation(0), |known| known.generation)
    }

    /// Is it known to the kernel?
    pub fn knows(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// By what the kernel closes a node by itself, if it does.
    pub fn closed(&self, node: NodeId) -> Option<&Closed> {
        self.nodes.get(&node)?.closed.as_ref()
    }

    /// The kernel closes it by itself from now on, or not any more.
    pub fn set_closed(&mut self, node: NodeId, closed: Option<Closed>) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.closed = closed;
        }
    }

    /// All that the kernel closes by itself.
    pub fn all_closed(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, known)| known.closed.is_some()).map(|(node, _)| *node).collect()
    }

    /// A name that is seen from now on is seen later than this.
    pub fn now(&self) -> u64 {
        self.clock
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// How many names are remembered, the root included.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Other rules from now on. Answers the nodes that the kernel must ask about from now on, and need not until now.
    pub fn replace(&mut self, policy: Arc<Policy>) -> Vec<NodeId> {
        let free: Vec<NodeId> = self
            .nodes
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|node| !self.guards(*node))
            .collect();
        self.policy = policy;
        self.version += 1;
        self.relaxed += 1;
        free.into_iter().filter(|node| self.guards(*node)).collect()
    }

    fn guards(&mut self, node: NodeId) -> bool {
        let policy = self.policy.clone();
        self.standings(node).iter().any(|standing| policy.guards(standing))
    }

    /// How a node stands by each of its names; nothing if it is not known.
    pub fn standings(&mut self, node: NodeId) -> Vec<Arc<Standing>> {
        let places = self.nodes.get(&node).map(|known| known.places.clone()).unwrap_or_default();
        places.into_iter().filter_map(|place| self.standing(place)).collect()
    }

    /// How a name in a directory stands; `None` if the directory is not known.
    pub fn standing_of_name(&mut self, parent: NodeId, name: &[u8]) -> Option<Arc<Standing>> {
        let parent = self.place_of_directory(parent)?;
        let above = self.standing(parent)?;
        Some(self.below(&above, name))
    }

    /// Most have the standing of what is above them, which is then shared.
    fn below(&self, above: &Arc<Standing>, name: &[u8]) -> Arc<Standing> {
        let standing = self.policy.child(above, name);
        if standing == **above { above.clone() } else { Arc::new(standing) }
    }

    fn place_of_directory(&self, node: NodeId) -> Option<PlaceId> {
        self.nodes.get(&node)?.places.last().copied()
    }

    fn standing(&mut self, place: PlaceId) -> Option<Arc<Standing>> {
        // Up to the first that is up to date, then down again.
        let mut stale = Vec::new();
        let mut at = place;
        let mut standing = loop {
            let here = self.places.get(&at)?;
            if here.version == self.version {
                break here.standing.clone();
            }
            if at == ROOT {
                break Arc::new(self.policy.root());
            }
            stale.push(at);
            at = here.parent;
        };
        if at == ROOT {
            self.bring_up(ROOT, &standing);
        }
        for at in stale.into_iter().rev() {
            let name = self.places.get(&at)?.name.clone();
            standing = self.below(&standing, &name);
            self.bring_up(at, &standing);
        }
        Some(standing)
    }

    fn bring_up(&mut self, place: PlaceId, standing: &Arc<Standing>) {
        if let Some(place) = self.places.get_mut(&place) {
            place.standing = standing.clone();
            place.version = self.version;
        }
    }

    /// `name` in `parent` leads to `node`, which the kernel has been told once more.
    pub fn learn(
        &mut self,
        (parent, name): (NodeId, &[u8]),
        (node, generation): (NodeId, Generation),
        is_directory: bool,
    ) {
        let known = self.nodes.entry(node).or_default();
        known.lookups += 1;
        known.generation = generation;
        known.is_directory = is_directory;
        let Some(above) = self.place_of_directory(parent) else { return };
        if let Some(&there) = self.index.get(&(above, Arc::from(name))) {
            let seen = self.tick();
            if let Some(place) = self.places.get_mut(&there).filter(|place| place.node == Some(node)) {
                place.seen = seen;
                return;
            }
            // Somebody has changed it underneath.
            self.unlink(there);
        }
        let place = self.make(above, name, node, true);
        self.attach(node, place);
    }

    /// Something in `parent` that has no name (yet).
    pub fn learn_nameless(&mut self, parent: NodeId, (node, generation): (NodeId, Generation)) {
        let known = self.nodes.entry(node).or_default();
        known.lookups += 1;
        known.generation = generation;
        let Some(above) = self.place_of_directory(parent) else { return };
        let place = self.make(above, b"", node, false);
        self.attach(node, place);
    }

    fn make(&mut self, parent: PlaceId, name: &[u8], node: NodeId, is_linked: bool) -> PlaceId {
        let seen = self.tick();
        let id = PlaceId(seen);
        let name: Arc<[u8]> = name.into();
        let standing = self.standing(parent).map_or_else(Arc::default, |above| self.below(&above, &name));
        if is_linked {
            self.index.insert((parent, name.clone()), id);
        }
        if let Some(parent) = self.places.get_mut(&parent) {
            parent.children += 1;
        }
        let version = self.version;
        self.places.insert(
            id,
            Place { parent, name, node: Some(node), is_linked, seen, children: 0, standing, version },
        );
        id
    }

    /// `place` is where `node` is. Names that it has no more are not needed any longer, and a directory has only one.
    fn attach(&mut self, node: NodeId, place: PlaceId) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        let is_directory = known.is_directory;
        let places = &self.places;
        let stays = |id: &PlaceId| !is_directory && places.get(id).is_some_and(|place| place.is_linked);
        let (mut kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut known.places).into_iter().partition(stays);
        kept.push(place);
        known.places = kept;
        self.relaxed += u64::from(!gone.is_empty());
        for place in gone {
            self.hand_over(place, is_directory.then_some(node));
        }
    }

    /// A place that a node has left: what is known below a directory is found through its new place.
    fn hand_over(&mut self, old: PlaceId, directory: Option<NodeId>) {
        let new = directory.and_then(|node| self.place_of_directory(node)).filter(|new| *new != old);
        if let Some(new) = new {
            let below: Vec<PlaceId> =
                self.places.iter().filter(|(_, place)| place.parent == old).map(|(id, _)| *id).collect();
            for id in below {
                self.move_under(id, new);
            }
        }
        self.vacate(old);
    }

    fn move_under(&mut self, id: PlaceId, new: PlaceId) {
        let Some(place) = self.places.get_mut(&id).filter(|_| id != ROOT) else { return };
        let (old, name) = (std::mem::replace(&mut place.parent, new), place.name.clone());
        // Not the version that the rules have: it stands elsewhere now, and so does what is below it.
        let is_linked = place.is_linked;
        if is_linked {
            self.index.remove(&(old, name.clone()));
            self.index.insert((new, name), id);
        }
        if let Some(parent) = self.places.get_mut(&old) {
            parent.children -= 1;
        }
        if let Some(parent) = self.places.get_mut(&new) {
            parent.children += 1;
        }
        self.version += 1;
    }

    /// The name does not lead there any more.
    fn unlink(&mut self, id: PlaceId) {
        let Some(place) = self.places.get_mut(&id) else { return };
        if !std::mem::take(&mut place.is_linked) {
            return;
        }
        let (key, node) = ((place.parent, place.name.clone()), place.node);
        self.index.remove(&key);
        let Some(known) = node.and_then(|node| self.nodes.get_mut(&node)) else { return };
        // The last one stays, so that what is in use stands as it stood.
        if known.places.len() > 1 {
            known.places.retain(|place| *place != id);
            self.relaxed += 1;
            self.vacate(id);
        }
    }

    /// Nobody is there any more. It stays as long as something is below it.
    fn vacate(&mut self, id: PlaceId) {
        if let Some(place) = self.places.get_mut(&id) {
            place.node = None;
        }
        self.collect(id);
    }

    fn collect(&mut self, mut id: PlaceId) {
        while id != ROOT {
            let Some(place) =
                self.places.get(&id).filter(|place| place.node.is_none() && place.children == 0)
            else {
                return;
            };
            let (parent, name, is_linked) = (place.parent, place.name.clone(), place.is_linked);
            if is_linked {
                self.index.remove(&(parent, name));
            }
            self.places.remove(&id);
            if let Some(parent) = self.places.get_mut(&parent) {
                parent.children -= 1;
            }
            id = parent;
        }
    }

    /// The kernel forgets.
    pub fn forget(&mut self, node: NodeId, count: u64) {
        if node == NodeId::ROOT {
            return;
        }
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 {
            return;
        }
        for place in self.nodes.remove(&node).map(|known| known.places).unwrap_or_default() {
            self.vacate(place);
        }
    }

    fn at(&self, parent: NodeId, name: &[u8]) -> Option<PlaceId> {
        let above = self.place_of_directory(parent)?;
        self.index.get(&(above, Arc::from(name))).copied()
    }

    /// What a name leads to as far as is known, and whether that is a directory.
    pub fn node_at(&self, parent: NodeId, name: &[u8]) -> Option<(NodeId, bool)> {
        let node = self.places.get(&self.at(parent, name)?)?.node?;
        Some((node, self.nodes.get(&node)?.is_directory))
    }

    /// A name was removed.
    pub fn removed(&mut self, parent: NodeId, name: &[u8]) {
        if let Some(place) = self.at(parent, name) {
            self.unlink(place);
        }
    }

    /// The filesystem, asked at that time, has no such name: somebody has removed it underneath, unless it was seen since.
    pub fn absent(&mut self, (parent, name): (NodeId, &[u8]), asked: u64) {
        let known = self.at(parent, name);
        if let Some(place) = known.filter(|id| self.places.get(id).is_some_and(|place| place.seen <= asked)) {
            self.unlink(place);
        }
    }

    /// A name was moved, or two have changed places.
    pub fn moved(
        &mut self,
        (parent, name): (NodeId, &[u8]),
        (new_parent, new_name): (NodeId, &[u8]),
        exchange: bool,
    ) {
        let (Some(old_above), Some(new_above)) =
            (self.place_of_directory(parent), self.place_of_directory(new_parent))
        else {
            return;
        };
        let (old, new) = (self.at(parent, name), self.at(new_parent, new_name));
        if old == new {
            return;
        }
        if let Some(new) = new {
            if exchange {
                self.rename(new, old_above, name);
            } else {
                self.unlink(new);
            }
        }
        if let Some(old) = old {
            self.rename(old, new_above, new_name);
        }
    }

    fn rename(&mut self, id: PlaceId, parent: PlaceId, name: &[u8]) {
        let (name, seen): (Arc<[u8]>, _) = (name.into(), self.tick());
        let Some(place) = self.places.get_mut(&id) else { return };
        place.seen = seen;
        let (old_parent, old_name) = (place.parent, std::mem::replace(&mut place.name, name.clone()));
        place.parent = parent;
        if self.index.get(&(old_parent, old_name.clone())) == Some(&id) {
            self.index.remove(&(old_parent, old_name));
        }
        self.index.insert((parent, name), id);
        for (parent, change) in [(old_parent, -1_isize), (parent, 1)] {
            if let Some(place) = self.places.get_mut(&parent) {
                place.children = place.children.saturating_add_signed(change);
            }
        }
        self.collect(old_parent);
        self.restand(id);
    }

    /// It may stand otherwise at its new place. Directories do not, or are not moved; but names are told apart when the rules
    /// change.
    fn restand(&mut self, id: PlaceId) {
        let Some(place) = self.places.get(&id) else { return };
        let (parent, name) = (place.parent, place.name.clone());
        if let Some(above) = self.standing(parent) {
            let standing = self.below(&above, &name);
            self.relaxed += u64::from(self.places.get(&id).is_some_and(|place| place.standing != standing));
            self.bring_up(id, &standing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const N: fn(u64) -> NodeId = NodeId::new;

    fn places(text: &str) -> Places {
        Places::new(Arc::new(Policy::parse(text, Path::new("p.toml")).expect("parses")))
    }

    const SECRET: &str = "[[rule]]\npath = \"/secret\"\neffect = \"deny\"\n";

    #[test]
    fn what_is_forgotten_takes_no_room() {
        let mut places = places(SECRET);
        places.learn((NodeId::ROOT, b"a"), (N(2), Generation(1)), true);
        places.learn((N(2), b"b"), (N(3), Generation(1)), true);
        places.learn((N(3), b"c"), (N(4), Generation(1)), false);
        places.learn((N(3), b"d"), (N(4), Generation(1)), false);
        places.learn_nameless(N(3), (N(5), Generation(1)));
        assert_eq!(places.len(), 6);
        // In whatever order.
        places.forget(N(2), 1);
        assert_eq!(places.len(), 6, "still the way to what is below");
        places.forget(N(3), 1);
        places.forget(N(4), 1);
        places.removed(N(3), b"c");
        assert!(!places.standings(N(4)).is_empty());
        places.forget(N(4), 1);
        places.forget(N(5), 1);
        assert_eq!((places.len(), places.nodes.len(), places.index.len()), (1, 1, 0));
        assert_eq!(places.places[&ROOT].children, 0);
    }

    #[test]
    fn a_file_stands_by_all_of_its_names() {
        let mut places = places(SECRET);
        places.learn((NodeId::ROOT, b"secret"), (N(2), Generation(1)), true);
        places.learn((NodeId::ROOT, b"open"), (N(3), Generation(1)), true);
        places.learn((N(2), b"f"), (N(4), Generation(1)), false);
        places.learn((N(3), b"f"), (N(4), Generation(1)), false);
        assert_eq!(places.standings(N(4)).len(), 2);
        assert!(places.guards(N(4)) && places.guards(N(2)) && !places.guards(N(3)));
        places.removed(N(2), b"f");
        assert!(!places.guards(N(4)));
        // The last name: it stands as it stood.
        places.learn((N(2), b"g"), (N(5), Generation(1)), false);
        places.removed(N(2), b"g");
        assert!(places.guards(N(5)));
        // Another file of the name, made underneath.
        places.learn((N(3), b"f"), (N(6), Generation(1)), false);
        assert_eq!(places.node_at(N(3), b"f"), Some((N(6), false)));
    }

    #[test]
    fn a_name_is_not_gone_that_was_seen_after_it_was_asked_for() {
        let mut places = places(SECRET);
        places.learn((NodeId::ROOT, b"secret"), (N(2), Generation(1)), true);
        places.learn((NodeId::ROOT, b"open"), (N(3), Generation(1)), true);
        let in_secret = (N(2), &b"f"[..]);
        let asked = places.now();
        places.learn((N(3), b"f"), (N(4), Generation(1)), false);
        places.learn(in_secret, (N(4), Generation(1)), false);
        places.absent(in_secret, asked);
        assert!(places.guards(N(4)), "made since");
        let asked = places.now();
        places.learn(in_secret, (N(4), Generation(1)), false);
        places.absent(in_secret, asked);
        assert!(places.guards(N(4)), "seen since");
        let asked = places.now();
        places.moved((N(3), b"f"), (N(3), b"g"), false);
        places.absent((N(3), b"g"), asked);
        assert_eq!(places.node_at(N(3), b"g"), Some((N(4), false)), "moved there since");
        let asked = places.now();
        places.absent(in_secret, asked);
        assert!(!places.guards(N(4)) && places.standings(N(4)).len() == 1);
    }

    #[test]
    fn new_rules_find_what_is_known() {
        let mut places = places("");
        places.learn((NodeId::ROOT, b"a"), (N(2), Generation(1)), true);
        places.learn((N(2), b"b"), (N(3), Generation(1)), true);
        places.learn((N(3), b"c"), (N(4), Generation(1)), false);
        places.moved((N(2), b"b"), (NodeId::ROOT, b"secret"), false);
        let mut guarded = places.replace(Arc::new(Policy::parse(SECRET, Path::new("p")).expect("parses")));
        guarded.sort();
        assert_eq!(guarded, [N(3), N(4)], "by the name it has now");
        assert_eq!(places.replace(Arc::new(Policy::parse("", Path::new("p")).expect("parses"))), []);
        assert!(!places.guards(N(4)));
    }

    #[test]
    fn names_change_places() {
        let mut places = places(SECRET);
        places.learn((NodeId::ROOT, b"a"), (N(2), Generation(1)), false);
        places.learn((NodeId::ROOT, b"secret"), (N(3), Generation(1)), false);
        places.moved((NodeId::ROOT, b"a"), (NodeId::ROOT, b"secret"), true);
        assert!(places.guards(N(2)) && !places.guards(N(3)));
        places.moved((NodeId::ROOT, b"secret"), (NodeId::ROOT, b"a"), false);
        assert!(!places.guards(N(2)));
        assert_eq!(places.node_at(NodeId::ROOT, b"a"), Some((N(2), false)));
        assert_eq!(places.node_at(NodeId::ROOT, b"secret"), None);
        places.forget(N(2), 1);
        places.forget(N(3), 1);
        assert_eq!(places.len(), 1);
    }
}
