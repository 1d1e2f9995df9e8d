use std::collections::BTreeMap;

use moonscope_process::BufferMemory;
use proptest::prelude::*;

use super::*;

const ZONE: u64 = 0x10_0000;
const SIZE: u64 = 0x2_0000;
const STATS: u64 = ZONE + 0x200;
const SHCTX: u64 = ZONE + 0x800;
const NODES: u64 = ZONE + 0x1000;
const STEP: u64 = 0x100;

/// A zone with a dictionary, byte by byte.
struct Zone(Vec<u8>);

impl Zone {
    fn new() -> Self {
        let mut zone = Self(vec![0; SIZE as usize]);
        zone.word(ZONE + 24, 3);
        zone.word(ZONE + zones::SLAB_STATS, STATS);
        zone.word(ZONE + MUTEX, ZONE);
        zone.word(ZONE + 184, SHCTX);
        zone.word(ZONE + 192, ZONE);
        zone.word(SHCTX, SHCTX + 24);
        zone.word(SHCTX + 8, SHCTX + 24);
        zone.word(SHCTX + 64, SHCTX + 64);
        zone.word(SHCTX + 72, SHCTX + 64);
        zone
    }

    fn put(&mut self, addr: u64, bytes: &[u8]) {
        let at = (addr - ZONE) as usize;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, addr: u64, word: u64) {
        self.put(addr, &word.to_le_bytes());
    }

    /// A tree of these keys without any balance: the root is the first of them.
    fn with(keys: &[(&str, u8, &[u8])]) -> Self {
        let mut zone = Self::new();
        let mut placed: Vec<((u64, &str), u64)> = Vec::new();
        for (number, (key, kind, value)) in keys.iter().enumerate() {
            let addr = NODES + STEP * number as u64;
            let hash = u64::from(crc32fast::hash(key.as_bytes()));
            zone.word(addr, hash);
            zone.word(addr + 8, SHCTX + 24);
            zone.word(addr + 16, SHCTX + 24);
            zone.put(addr + 33, &[*kind]);
            zone.put(addr + 34, &(key.len() as u16).to_le_bytes());
            zone.put(addr + 36, &(value.len() as u32).to_le_bytes());
            zone.put(addr + 68, key.as_bytes());
            zone.put(addr + 68 + key.len() as u64, value);
            // the nearest smaller or larger one that has room
            let order = (hash, *key);
            let mut at = match placed.first() {
                None => {
                    zone.word(SHCTX, addr);
                    placed.push((order, addr));
                    continue;
                }
                Some((_, root)) => *root,
            };
            loop {
                let (other, _) = placed.iter().find(|(_, addr)| *addr == at).unwrap();
                let link = at + if order < *other { 8 } else { 16 };
                let offset = (link - ZONE) as usize;
                let next = u64::from_le_bytes(zone.0[offset..offset + 8].try_into().unwrap());
                if next == SHCTX + 24 {
                    zone.word(link, addr);
                    zone.word(addr + 24, at);
                    break;
                }
                at = next;
            }
            placed.push((order, addr));
        }
        zone
    }

    fn memory(self) -> BufferMemory {
        BufferMemory::new().with(ZONE, self.0)
    }
}

fn place() -> Place {
    Place {
        name: b"dogs".to_vec(),
        addr: ZONE,
        size: SIZE,
        data: SHCTX,
    }
}

const KEYS: [(&str, u8, &[u8]); 5] = [
    ("Jim", 3, &[0, 0, 0, 0, 0, 0, 0x21, 0x40]),
    ("Tom", 4, b"hello\0world"),
    ("flag", 1, &[1]),
    (
        "a key that is longer than what is read of a node at first, which is the case for few keys",
        4,
        b"",
    ),
    ("odd", 9, b"?"),
];

fn names(dict: &Dict) -> Vec<String> {
    let mut names: Vec<String> = dict
        .keys
        .iter()
        .map(|key| String::from_utf8_lossy(&key.key).into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn every_key_is_found_with_its_value() {
    let memory = Zone::with(&KEYS).memory();
    let dict = place().dict(&memory).unwrap();
    let mut expected: Vec<&str> = KEYS.iter().map(|(key, ..)| *key).collect();
    expected.sort_unstable();
    assert_eq!(names(&dict), expected);
    assert_eq!((dict.torn, dict.is_changed, dict.is_cut), (0, false, false));
    let value = |key: &str| place().value(&memory, key.as_bytes()).unwrap();
    let items = |key: &str| value(key).unwrap().items;
    assert_eq!(items("Jim"), [Item::Number(8.5)]);
    assert_eq!(items("Tom"), [Item::String(b"hello\0world".to_vec())]);
    assert_eq!(items("flag"), [Item::Boolean(true)]);
    assert_eq!(items(KEYS[3].0), [Item::String(Vec::new())]);
    assert_eq!(items("odd"), [Item::Other]);
    assert_eq!(value("nobody"), None);
    assert!(!value("Jim").unwrap().is_changed);
}

#[test]
fn a_list_has_its_elements_in_their_order() {
    let mut zone = Zone::with(&[("list", 5, &[0; 40])]);
    // value_len of a list is the number of its elements
    zone.put(NODES + 36, &2u32.to_le_bytes());
    let head = NODES + 68 + 4;
    let (one, two) = (NODES + 0x1000, NODES + 0x1100);
    zone.word(head, two);
    zone.word(head + 8, one);
    for (at, next, kind, data) in [(one, two, 4u8, &b"a"[..]), (two, head, 3, &1f64.to_le_bytes())] {
        zone.word(at + 8, next);
        zone.put(at + 16, &(data.len() as u32).to_le_bytes());
        zone.put(at + 20, &[kind]);
        zone.put(at + 21, data);
    }
    let items = |zone: Zone| place().value(&zone.memory(), b"list").unwrap().unwrap().items;
    assert_eq!(
        items(Zone(zone.0.clone())),
        [Item::String(b"a".to_vec()), Item::Number(1.0)]
    );
    // a queue that leads into itself
    zone.word(two + 8, one);
    assert!(place().value(&zone.memory(), b"list").is_err());
}

#[test]
fn what_expires_is_told_from_what_has() {
    let mut zone = Zone::with(&KEYS);
    zone.word(NODES + 40, 1000);
    zone.word(NODES + STEP + 40, u64::MAX);
    let dict = place().dict(&zone.memory()).unwrap();
    assert_eq!(dict.keys.iter().filter(|key| key.is_expired(dict.now)).count(), 1);
}

#[test]
fn a_node_that_is_none_is_torn_while_the_zone_changes_and_a_layout_that_is_not_known_if_not() {
    let mut zone = Zone::with(&KEYS);
    zone.put(NODES + 68, b"Jam");
    let err = place().dict(&Zone(zone.0.clone()).memory()).unwrap_err();
    assert!(
        err.to_string().contains("ngx_http_lua_shdict_node_t.data"),
        "{err}"
    );
    // somebody holds the lock
    zone.word(ZONE, 4321);
    let dict = place().dict(&zone.memory()).unwrap();
    assert_eq!((dict.torn, dict.is_changed), (1, true));
    // the root, with all that is below it
    assert_eq!(dict.keys.len(), 0);
}

#[test]
fn a_tree_that_leads_in_a_circle_or_out_of_its_zone_comes_to_an_end() {
    for (link, to) in [
        (8, NODES),
        (16, NODES),
        (8, ZONE + SIZE - 8),
        (16, 0),
        (8, 3),
        (8, u64::MAX - 7),
    ] {
        let mut zone = Zone::with(&KEYS);
        zone.word(ZONE, 4321);
        zone.word(NODES + link, to);
        let dict = place().dict(&zone.memory()).unwrap();
        assert!(dict.torn > 0 && dict.is_changed, "{link} {to:#x}");
    }
    for (at, field) in [(8, "rbtree"), (64, "lru_queue")] {
        let mut zone = Zone::with(&KEYS);
        zone.word(SHCTX + at, 0x1234);
        let err = place().dict(&zone.memory()).unwrap_err().to_string();
        assert!(err.contains(field), "{err}");
    }
}

#[test]
fn the_tree_of_a_zone_is_found_behind_a_mutex_of_any_size() {
    // an ngx_shm_zone_t: data, addr, size, name
    let words = [0, ZONE, SIZE, 4, ZONE + 0x400, 0, 0, 0, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
    let zone = Block::of(0x1000, &bytes);
    let find = |change: fn(&mut Zone)| {
        let mut slab = Zone::new();
        slab.put(ZONE + 0x400, b"dogs");
        change(&mut slab);
        Place::find(&slab.memory(), &zone).map(|place| (place.name, place.data))
    };
    assert_eq!(find(|_| {}).unwrap(), (b"dogs".to_vec(), SHCTX));
    let smaller = find(|slab| {
        slab.word(ZONE + 192, 0);
        slab.word(ZONE + 136, SHCTX);
        slab.word(ZONE + 144, ZONE);
    });
    assert_eq!(smaller.unwrap().1, SHCTX);
    for refused in [
        find(|slab| slab.word(ZONE + 192, 0)),
        find(|slab| slab.word(ZONE + MUTEX, 0)),
        find(|slab| slab.word(ZONE + 144, ZONE)),
    ] {
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("ngx_slab_pool_t.addr"), "{why}");
    }
    assert!(Place::find(&Zone::new().memory(), &Block::of(0, &[])).is_err());
}

proptest! {
    #[test]
    fn any_zone_of_any_keys_gives_these_or_says_what_is_wrong(
        keys in prop::collection::btree_map("[a-z]{1,8}", any::<u8>(), 0..20),
        damage in prop::collection::vec((0..SIZE / 8, any::<u64>()), 0..4),
    ) {
        let all: BTreeMap<String, u8> = keys;
        let list: Vec<(&str, u8, &[u8])> = all.iter().map(|(key, kind)| (key.as_str(), kind % 5, &b"12345678"[..])).collect();
        let mut zone = Zone::with(&list);
        for (at, word) in &damage {
            // the counters say nothing of it
            if !(0x200..0x800).contains(&(at * 8)) {
                zone.word(ZONE + at * 8, *word);
            }
        }
        let memory = zone.memory();
        let found = place().dict(&memory);
        if damage.is_empty() {
            let found = found.unwrap();
            prop_assert_eq!(names(&found), all.keys().cloned().collect::<Vec<_>>());
        } else if let Ok(found) = found {
            prop_assert!(found.keys.len() <= all.len() + 1);
        }
        for key in all.keys() {
            let _ = place().value(&memory, key.as_bytes());
        }
    }
}
