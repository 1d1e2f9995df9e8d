use moonscope_process::BufferMemory;
use proptest::prelude::*;

use super::*;

const CONF: u64 = 0x10_000;
const POOL: u64 = 0x70_000;
const LISTS: u64 = 0x20_000;
const AT: u64 = 232;

/// A configuration whose phases have these handlers, as modules registered them.
fn conf(phases: &[(usize, &[u64])]) -> (BufferMemory, Block) {
    let mut bytes = vec![0xff; CONF_SIZE as usize];
    let mut memory = BufferMemory::new();
    bytes[AT as usize..(AT + PHASES * ARRAY) as usize].fill(0);
    for &(phase, handlers) in phases {
        let elements = LISTS + 0x100 * phase as u64;
        let words = [elements, handlers.len() as u64, 8, 8, POOL];
        let at = AT as usize + ARRAY as usize * phase;
        for (number, word) in words.into_iter().enumerate() {
            bytes[at + 8 * number..at + 8 * number + 8].copy_from_slice(&word.to_le_bytes());
        }
        let handlers: Vec<u8> = handlers
            .iter()
            .flat_map(|handler| handler.to_le_bytes())
            .collect();
        if !handlers.is_empty() {
            memory = memory.with(elements, handlers);
        }
    }
    memory = memory.with(CONF, bytes);
    let block = Block::read(&memory, CONF, CONF_SIZE).unwrap();
    (memory, block)
}

fn place(checker: &str, handler: u64) -> Place {
    Place::new(Some(&format!("ngx_http_core_{checker}_phase")), handler)
}

/// What nginx registers in an ordinary build, and the engine that it makes of it.
const REGISTERED: [(usize, &[u64]); 8] = [
    (0, &[1]),
    (1, &[2]),
    (3, &[2, 3]),
    (5, &[4, 5]),
    (6, &[6, 7]),
    (8, &[8]),
    (9, &[9, 10]),
    (10, &[12, 11]),
];

fn ordinary() -> Vec<Place> {
    vec![
        place("generic", 1),
        place("rewrite", 2),
        place("find_config", 0),
        place("rewrite", 3),
        place("rewrite", 2),
        place("post_rewrite", 0),
        place("generic", 5),
        place("generic", 4),
        place("access", 7),
        place("access", 6),
        place("post_access", 0),
        place("generic", 8),
        place("content", 10),
        place("content", 9),
    ]
}

#[test]
fn the_lists_that_an_engine_was_made_of_say_which_phase_a_place_is_of() {
    use Phase::{
        Access, Content, FindConfig, PostAccess, PostRead, PostRewrite, Preaccess, Precontent, Rewrite,
        ServerRewrite,
    };
    let (memory, block) = conf(&REGISTERED);
    let found = engine(&memory, &block, ordinary(), POOL).unwrap();
    let expected = [
        PostRead,
        ServerRewrite,
        FindConfig,
        Rewrite,
        Rewrite,
        PostRewrite,
        Preaccess,
        Preaccess,
        Access,
        Access,
        PostAccess,
        Precontent,
        Content,
        Content,
    ];
    assert_eq!(found.phases, expected);
    // forwards: the log phase is not in the engine
    assert_eq!(found.log, [12, 11]);
}

#[test]
fn generic_places_behind_find_config_are_told_apart() {
    // no rewrite, no access: checkers alone would not tell preaccess from precontent
    let engine_of = vec![place("find_config", 0), place("generic", 4), place("generic", 8)];
    let empty: &[u64] = &[];
    let mut phases = [0, 1, 3, 6, 9, 10].map(|phase| (phase, empty)).to_vec();
    phases.extend([(5, &[4u64][..]), (8, &[8u64][..])]);
    let (memory, block) = conf(&phases);
    let found = engine(&memory, &block, engine_of, POOL).unwrap();
    assert_eq!(
        found.phases,
        [Phase::FindConfig, Phase::Preaccess, Phase::Precontent]
    );
}

#[test]
fn an_engine_that_was_made_of_other_lists_is_refused() {
    let (memory, block) = conf(&REGISTERED);
    let refused = |places: Vec<Place>| engine(&memory, &block, places, POOL).err().unwrap();
    let change = |at: usize, place: Place| {
        let mut places = ordinary();
        places[at] = place;
        places
    };
    assert!(refused(change(0, place("generic", 99))).contains("no lists"));
    assert!(refused(change(0, place("rewrite", 1))).contains("no lists"));
    assert!(refused(change(6, Place::new(None, 5))).contains("no lists"));
    assert!(refused(ordinary()[1..].to_vec()).contains("no lists"));
    let longer = [ordinary(), vec![place("content", 9)]].concat();
    assert!(refused(longer).contains("no lists"));
    assert!(refused(Vec::new()).contains("no places"));
    // in another pool than the cycle's
    let why = engine(&memory, &block, ordinary(), POOL + 8).err().unwrap();
    assert!(why.contains("no lists"));
}

#[test]
fn the_engine_of_the_time_before_1_13_4_has_a_place_for_try_files() {
    let mut places = ordinary();
    places[11] = place("try_files", 0);
    let mut registered = REGISTERED.to_vec();
    registered.retain(|(phase, _)| *phase != 8);
    let (memory, block) = conf(&registered);
    let found = engine(&memory, &block, places, POOL).unwrap();
    assert_eq!(found.phases[11], Phase::Precontent);
}

proptest! {
    #[test]
    fn any_bytes_as_configuration_give_no_engine_and_no_panic(bytes in prop::collection::vec(any::<u8>(), CONF_SIZE as usize)) {
        let memory = BufferMemory::new().with(CONF, bytes);
        let block = Block::read(&memory, CONF, CONF_SIZE).unwrap();
        prop_assert!(engine(&memory, &block, ordinary(), POOL).is_err());
    }

    #[test]
    fn a_configuration_with_some_words_changed_gives_the_engine_or_none(at in 0..CONF_SIZE / 8, word in any::<u64>()) {
        let (_, block) = conf(&REGISTERED);
        let (lists, _) = conf(&REGISTERED);
        let mut bytes: Vec<u8> = (0..CONF_SIZE / 8).flat_map(|each| {
            if each == at { word.to_le_bytes() } else { block.word(8 * each).to_le_bytes() }
        }).collect();
        bytes.truncate(CONF_SIZE as usize);
        let other = BufferMemory::new().with(CONF, bytes);
        let block = Block::read(&other, CONF, CONF_SIZE).unwrap();
        if let Ok(found) = engine(&lists, &block, ordinary(), POOL) {
            prop_assert_eq!(found.phases.len(), ordinary().len());
        }
    }
}
