use moonscope_process::BufferMemory;
use proptest::prelude::*;

use super::*;

const LUA: u64 = 0x1_0000;
const G: u64 = 0x2_0000;
const REGISTRY: u64 = 0x3_0000;
const POOLS: u64 = 0x4_0000;
const UDATUM: u64 = 0x5_0000;
const POOL: u64 = UDATUM + UDATA;
const CONNECTIONS: std::ops::Range<u64> = 0x8_0000..0x8_1000;
const NAME: &[u8] = b"127.0.0.1:6379\0";
const ITEMS: u64 = 96 + 16;
const STRIDE: u64 = 184;
/// 128 GiB of segments: the address has bits that the key of the registry has not.
const KEY_ADDR: u64 = 0x7fcd_5d5c_abba;

/// Memory that is written word by word.
struct Words(Vec<u8>, u64);

impl Words {
    fn new(addr: u64, len: u64) -> Self {
        Self(vec![0; len as usize], addr)
    }

    fn put(&mut self, addr: u64, bytes: &[u8]) {
        let at = (addr - self.1) as usize;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, addr: u64, word: u64) {
        self.put(addr, &word.to_le_bytes());
    }

    fn link(&mut self, one: u64, other: u64) {
        self.word(one + 8, other);
        self.word(other, one);
    }
}

/// A pool of 3, two of which are kept.
fn udata() -> Words {
    let len = 103 + 16 + 3 * STRIDE;
    let mut words = Words::new(UDATUM, UDATA + len);
    words.put(UDATUM + GCT, &[USERDATA]);
    words.put(UDATUM + UDATA_LEN, &(len as u32).to_le_bytes());
    words.word(POOL, LUA);
    words.word(POOL + 8, 3);
    for head in [16, 32] {
        words.link(POOL + head, POOL + head);
    }
    words.word(POOL + 48, 5);
    words.word(POOL + 88, u64::MAX);
    words.put(POOL + 96, NAME);
    let item = |number: u64| POOL + ITEMS + STRIDE * number;
    for number in 0..3 {
        words.word(item(number), POOL);
        words.word(item(number) + 24, CONNECTIONS.start + 0x100 * number);
        words.word(item(number) + 168, 7 + number);
    }
    let queue = |number: u64| item(number) + 8;
    words.link(POOL + 56, queue(2));
    words.link(queue(2), queue(0));
    words.link(queue(0), POOL + 56);
    words.link(POOL + 72, queue(1));
    words.link(queue(1), POOL + 72);
    words
}

fn connections() -> Words {
    let mut words = Words::new(CONNECTIONS.start, 0x1000);
    for number in [0, 2] {
        let at = CONNECTIONS.start + 0x100 * number;
        words.word(at, POOL + ITEMS + STRIDE * number);
        words.put(at + 24, &9i32.to_le_bytes());
    }
    words
}

/// A VM with a registry, in which the table of pools is under the key.
fn vm() -> BufferMemory {
    let table = |addr: u64, node: u64| {
        let mut words = Words::new(addr, 64);
        words.put(addr + GCT, &[TABLE]);
        words.word(addr + 40, node);
        words
    };
    let tagged = |gct: u8, addr: u64| ((!i64::from(gct)) << 47).cast_unsigned() | addr;
    let mut lua = Words::new(LUA, 32);
    lua.put(LUA + GCT, &[THREAD]);
    lua.word(LUA + GLREF, G);
    let mut g = Words::new(G, STATE);
    g.word(G + 192, LUA);
    g.word(G + 272, tagged(TABLE, REGISTRY));
    let mut node = Words::new(REGISTRY + 0x100, 24);
    node.word(REGISTRY + 0x100, tagged(TABLE, POOLS));
    // as luajit2 stores it: segment 0 and the low 39 bits
    node.word(REGISTRY + 0x108, 0xfffe_004d_5d5c_abba);
    let mut pool = Words::new(POOLS + 0x100, 24);
    pool.word(POOLS + 0x100, tagged(USERDATA, UDATUM));
    pool.word(POOLS + 0x108, tagged(4, 0x1234));
    let words = [
        lua,
        g,
        table(REGISTRY, REGISTRY + 0x100),
        node,
        table(POOLS, POOLS + 0x100),
        pool,
        connections(),
    ];
    words
        .into_iter()
        .fold(BufferMemory::new(), |memory, words| memory.with(words.1, words.0))
}

fn found(udata: Words) -> Result<SocketPools, String> {
    let memory = vm().with(UDATUM, udata.0);
    let table = table(&memory, LUA, KEY_ADDR).unwrap();
    pools(&memory, LUA, table, &CONNECTIONS).map_err(|err| err.to_string())
}

#[test]
fn a_pool_is_found_through_the_registry() {
    let pools = found(udata()).unwrap();
    assert_eq!(pools.torn, 0);
    let expected = SocketPool {
        name: b"127.0.0.1:6379".to_vec(),
        size: 3,
        kept: 2,
        connections: 5,
        backlog: None,
        waiting: 0,
        reused: vec![7, 9],
    };
    assert_eq!(pools.pools, [expected]);
}

#[test]
fn a_pool_in_which_something_does_not_agree_is_refused_by_the_name_of_the_field() {
    let item = |number: u64| POOL + ITEMS + STRIDE * number;
    let changes: [(u64, u64, &str); 9] = [
        (POOL, LUA + 8, "lua_vm"),
        (POOL + 8, 2, "size"),
        (POOL + 8, 0, "size"),
        (POOL + 8, u64::MAX, "size"),
        (item(1), POOL + 8, "socket_pool"),
        (POOL + 64, 0x1234, "cache"),
        (item(0) + 16, item(2) + 8, "cache"),
        (POOL + 80, POOL + 72, "free"),
        (item(2) + 24, CONNECTIONS.start, "connection"),
    ];
    for (addr, word, field) in changes {
        let mut udata = udata();
        udata.word(addr, word);
        let why = found(udata).unwrap_err();
        assert!(why.contains(field), "{field}: {why}");
    }
    // items of a size that is not known
    let mut larger = udata();
    larger.put(
        UDATUM + UDATA_LEN,
        &((103 + 16 + 3 * (STRIDE - 16)) as u32).to_le_bytes(),
    );
    assert!(found(larger).unwrap_err().contains("size"));
    let mut endless = udata();
    endless.put(POOL + 96, &[b'x'; 16]);
    endless.put(POOL + 112, &vec![b'x'; 3 * STRIDE as usize + 7]);
    assert!(found(endless).unwrap_err().contains("key"));
    // what is no userdata any more is torn, not known to be anything
    let mut gone = udata();
    gone.put(UDATUM + GCT, &[4]);
    assert_eq!(found(gone).unwrap().torn, 1);
}

#[test]
fn a_vm_without_that_key_is_refused() {
    let refused = |lua, key| table(&vm(), lua, key).unwrap_err().to_string();
    assert!(refused(LUA, KEY_ADDR + 8).contains("registrytv"));
    assert!(refused(POOLS, KEY_ADDR).contains("ngx_http_lua_main_conf_t.lua"));
    assert!(refused(0x9999_0000, KEY_ADDR).contains("ngx_http_lua_main_conf_t.lua"));
}

proptest! {
    #[test]
    fn any_damage_to_a_pool_gives_a_pool_or_a_reason(damage in prop::collection::vec((0..80u64, any::<u64>()), 1..4)) {
        let mut udata = udata();
        for (at, word) in damage {
            udata.word(UDATUM + 8 * at, word);
        }
        if let Ok(pools) = found(udata) {
            prop_assert_eq!(pools.pools.len() as u64 + pools.torn, 1);
        }
    }
}
