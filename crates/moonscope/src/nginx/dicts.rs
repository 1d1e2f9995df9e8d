//! Dictionaries that workers share: `lua_shared_dict`.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::{Args, Subcommand};
use moonscope_nginx::{Dict, DictKey, DictValue, Item, ValueKind, Worker};
use moonscope_process::counted;
use serde_json::{Map, Value, json};

use super::table::{Table, age, size};
use super::{Show, ViewArgs};
use crate::exit::{Code, Failure};
use crate::number;

/// Dictionaries.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DictsArgs {
    #[command(flatten)]
    pub(super) view: ViewArgs,

    /// Only the dictionary of this name
    #[arg(short = 'n', long, value_name = "DICT")]
    name: Option<OsString>,

    /// Lists the keys, too; they may hold what is nobody's business, so it takes --show-values
    #[arg(long, requires = "show_values")]
    keys: bool,

    /// How many keys of each are listed
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "keys",
          value_parser = number::whole(0_usize.., "1000"))]
    limit: usize,

    /// Shows what users put in
    #[arg(long)]
    show_values: bool,

    #[command(subcommand)]
    pub(super) command: Option<DictCommand>,
}

/// What else can be done with them.
#[derive(Subcommand)]
pub enum DictCommand {
    /// Shows the value of a key
    Get(GetArgs),
}

/// A key.
#[derive(Args)]
pub struct GetArgs {
    // before the target, which ends with a command behind `--`
    /// The dictionary
    #[arg(value_name = "DICT")]
    name: OsString,

    /// The key
    #[arg(value_name = "KEY")]
    key: OsString,

    #[command(flatten)]
    pub(super) view: ViewArgs,

    /// Needed: values may hold what is nobody's business
    #[arg(long, required = true)]
    show_values: bool,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn no_dict(worker: &Worker, name: &OsString) -> Result<Failure, Failure> {
    let names: Vec<String> = worker.dict_names()?.iter().map(|name| text(name)).collect();
    let name = name.to_string_lossy();
    let failure = Failure::new(Code::NoTarget, format_args!("there is no dictionary {name:?}"));
    Ok(match names.is_empty() {
        true => failure.with_remedy("its configuration has no lua_shared_dict"),
        false => failure.with_remedy(format_args!("there are: {}", names.join(", "))),
    })
}

/// When a key ends: in how long, or that it has.
fn ends(key: &DictKey, now: u64) -> String {
    match key.expires {
        0 => "never".to_owned(),
        at if at <= now => "expired".to_owned(),
        at => age(Duration::from_millis(at - now)),
    }
}

fn json_of_key(key: &DictKey, now: u64) -> Value {
    let mut value = json!({
        "key": text(&key.key),
        "type": key.kind.as_str(),
        "value_bytes": bytes_of(key),
        "elements": elements_of(key),
        "expires_ms": match key.expires { 0 => Value::Null, at => at.into() },
        "expired": key.is_expired(now),
        "flags": key.flags,
    });
    if std::str::from_utf8(&key.key).is_err() {
        let hex = key.key.iter().map(|byte| format!("{byte:02x}"));
        value["key_hex"] = hex.collect::<String>().into();
    }
    value
}

/// Bytes of a value; the length of a list is a number of elements.
fn bytes_of(key: &DictKey) -> Option<u32> {
    (key.kind != ValueKind::List).then_some(key.value_len)
}

fn elements_of(key: &DictKey) -> Option<u32> {
    (key.kind == ValueKind::List).then_some(key.value_len)
}

/// What is known of all keys of a dictionary together.
struct Totals {
    expired: usize,
    key_bytes: u64,
    value_bytes: u64,
    largest: u32,
    kinds: BTreeMap<&'static str, usize>,
}

impl Totals {
    fn of(dict: &Dict) -> Self {
        let keys = || dict.keys.iter();
        let mut kinds = BTreeMap::new();
        for key in keys() {
            *kinds.entry(key.kind.as_str()).or_default() += 1;
        }
        Self {
            expired: keys().filter(|key| key.is_expired(dict.now)).count(),
            key_bytes: keys().map(|key| key.key.len() as u64).sum(),
            value_bytes: keys().filter_map(bytes_of).map(u64::from).sum(),
            largest: keys().filter_map(bytes_of).max().unwrap_or(0),
            kinds,
        }
    }
}

impl DictsArgs {
    fn of(&self, worker: &Worker) -> Result<Vec<Dict>, Failure> {
        let name = self.name.as_ref();
        let mut dicts = worker.dicts(name.map(|name| name.as_bytes()))?;
        if let Some(name) = name
            && dicts.is_empty()
        {
            return Err(no_dict(worker, name)?);
        }
        for dict in &mut dicts {
            dict.keys.sort_by(|one, other| one.key.cmp(&other.key));
        }
        Ok(dicts)
    }

    fn json_of(&self, dict: &Dict) -> Value {
        let totals = Totals::of(dict);
        let kinds: Map<String, Value> = totals
            .kinds
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), (*count).into()))
            .collect();
        let mut value = json!({
            "name": text(&dict.name),
            "size_bytes": dict.size,
            "free_bytes": dict.free,
            "keys": dict.keys.len(),
            "expired": totals.expired,
            "key_bytes": totals.key_bytes,
            "value_bytes": totals.value_bytes,
            "largest_value_bytes": totals.largest,
            "by_type": kinds,
            "torn": dict.torn,
            "changed": dict.is_changed,
            "cut": dict.is_cut,
        });
        if self.keys {
            let shown = dict.keys.iter().take(self.limit);
            let entries: Vec<Value> = shown.map(|key| json_of_key(key, dict.now)).collect();
            value["entries"] = entries.into();
        }
        value
    }
}

/// What is to be said of dictionaries beside what stands in the table.
fn remarks(dicts: &[(u32, Dict)]) -> String {
    let mut lines = String::new();
    for (_, dict) in dicts {
        let name = text(&dict.name);
        let name = moonscope_process::visible(&name);
        if dict.is_changed {
            let _ = match dict.torn {
                0 => writeln!(lines, "{name} changed while it was read: keys may be missing"),
                torn => writeln!(
                    lines,
                    "{name} changed while it was read: {} and what is below them are left out",
                    counted(torn, "node")
                ),
            };
        }
        if dict.is_cut {
            let _ = writeln!(lines, "{name} has more keys than are read");
        }
    }
    lines
}

impl Show for DictsArgs {
    const KIND: &'static str = "moonscope-nginx-shdict";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let dicts = self.of(worker)?;
        let dicts: Vec<Value> = dicts.iter().map(|dict| self.json_of(dict)).collect();
        Ok(json!({ "dicts": dicts }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        // workers of one master share them: each is shown once
        let mut seen = HashSet::new();
        let mut all: Vec<(u32, Dict)> = Vec::new();
        for worker in workers {
            let dicts = self.of(worker)?.into_iter();
            let is_new = |dict: &Dict| dict.identity.is_none_or(|identity| seen.insert(identity));
            all.extend(dicts.filter(is_new).map(|dict| (worker.pid(), dict)));
        }
        if all.is_empty() {
            return Ok("no configuration has a lua_shared_dict\n".to_owned());
        }
        let mut table = Table::new(&[
            "PID",
            "DICT",
            "SIZE",
            "FREE",
            "FREE%",
            "KEYS",
            "EXPIRED",
            "KEY BYTES",
            "VALUE BYTES",
            "LARGEST",
        ]);
        let mut keys = Table::new(&["DICT", "KEY", "TYPE", "LENGTH", "ENDS IN", "FLAGS"]);
        let mut more = 0;
        for (pid, dict) in &all {
            let totals = Totals::of(dict);
            table.row([
                pid.to_string(),
                text(&dict.name),
                size(dict.size),
                size(dict.free),
                format!("{:.0}", 100.0 * dict.free as f64 / dict.size.max(1) as f64),
                dict.keys.len().to_string(),
                totals.expired.to_string(),
                size(totals.key_bytes),
                size(totals.value_bytes),
                size(totals.largest.into()),
            ]);
            more += dict.keys.len().saturating_sub(self.limit);
            for key in dict.keys.iter().take(self.limit) {
                keys.row([
                    text(&dict.name),
                    text(&key.key),
                    key.kind.as_str().to_owned(),
                    key.value_len.to_string(),
                    ends(key, dict.now),
                    format!("{:#x}", key.flags),
                ]);
            }
        }
        let mut text = table.to_string();
        if self.keys {
            let _ = write!(text, "\n{keys}");
            if more > 0 {
                let _ = writeln!(text, "{} more; --limit N lists them", counted(more, "key"));
            }
        }
        Ok(text + &remarks(&all))
    }

    fn orig(&self, _: &Worker) -> Result<String, Failure> {
        let failure = Failure::new(Code::Usage, "the old tool listed no dictionaries");
        Err(failure.with_remedy("shdict get DICT KEY --show-values has a value in its words"))
    }
}

impl GetArgs {
    fn of(&self, worker: &Worker) -> Result<Option<DictValue>, Failure> {
        let names = worker.dict_names()?;
        if !names.iter().any(|name| name == self.name.as_bytes()) {
            return Err(no_dict(worker, &self.name)?);
        }
        Ok(worker.dict_value(self.name.as_bytes(), self.key.as_bytes())?)
    }
}

fn json_of_item(item: &Item) -> Value {
    match item {
        Item::Boolean(value) => (*value).into(),
        // JSON has no word for those that are none and without end
        Item::Number(value) if value.is_finite() => (*value).into(),
        Item::Number(value) => value.to_string().into(),
        Item::String(bytes) => text(bytes).into(),
        Item::Other => Value::Null,
    }
}

fn text_of_item(item: &Item) -> String {
    match item {
        Item::Boolean(value) => value.to_string(),
        Item::Number(value) => value.to_string(),
        Item::String(bytes) => text(bytes),
        Item::Other => "?".to_owned(),
    }
}

impl Show for GetArgs {
    const KIND: &'static str = "moonscope-nginx-shdict-get";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let Some(found) = self.of(worker)? else {
            return Ok(json!({ "found": false }));
        };
        let mut value = json_of_key(&found.key, found.now);
        value["found"] = true.into();
        value["torn"] = found.torn.into();
        value["changed"] = found.is_changed.into();
        value["value"] = match (found.key.kind, &found.items[..]) {
            (ValueKind::List, items) => items.iter().map(json_of_item).collect(),
            (_, [item]) => json_of_item(item),
            _ => Value::Null,
        };
        Ok(value)
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let mut table = Table::new(&["PID", "TYPE", "LENGTH", "ENDS IN", "FLAGS", "VALUE"]);
        let mut seen = Vec::new();
        let mut remark = String::new();
        for worker in workers {
            let Some(found) = self.of(worker)? else { continue };
            let DictValue { key, items, now, .. } = &found;
            // shared by the workers of one master
            if seen.contains(&(key.clone(), items.clone())) {
                continue;
            }
            let values: Vec<String> = items.iter().map(text_of_item).collect();
            table.row([
                worker.pid().to_string(),
                key.kind.as_str().to_owned(),
                key.value_len.to_string(),
                ends(key, *now),
                format!("{:#x}", key.flags),
                values.join(" "),
            ]);
            if found.is_changed {
                remark = "it changed while it was read: parts of it may be of different times\n".to_owned();
            }
            seen.push((key.clone(), items.clone()));
        }
        Ok(match seen.is_empty() {
            true => "there is no such key\n".to_owned(),
            false => table.to_string() + &remark,
        })
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let Some(found) = self.of(worker)? else {
            return Ok("not found\n".to_owned());
        };
        let kind = match found.key.kind {
            ValueKind::Boolean => "LUA_TBOOLEAN",
            ValueKind::Number => "LUA_TNUMBER",
            ValueKind::String => "LUA_TSTRING",
            ValueKind::List => "LIST",
            ValueKind::Other(_) => "?",
        };
        let values: Vec<String> = found.items.iter().map(text_of_item).collect();
        Ok(format!(
            "type: {kind}\nvalue: {}\nexpires: {}\nflags: {:#x}\n",
            moonscope_process::visible(&values.join(" ")),
            found.key.expires,
            found.key.flags
        ))
    }
}
