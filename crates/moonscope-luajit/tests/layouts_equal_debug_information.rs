//! What is read from machine code, against the debug information and the symbols of builds that have them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::Command;

use common::{Build, skip};
use moonscope_luajit::{Layout, NoProbes, coroutine_probes, traces};

/// What gdb computes of the types in a file, in the order of the expressions; `None` for those it refuses.
fn gdb(build: &Build, expressions: &[String]) -> Option<Vec<Option<u64>>> {
    let mut command = Command::new("gdb");
    command.args(["-q", "-nx", "-batch"]);
    for expression in expressions {
        command.args([
            "-ex",
            &format!("printf \"=%lu\\n\", (unsigned long)({expression})"),
            "-ex",
            "echo \\n;\\n",
        ]);
    }
    let Ok(output) = command.arg(&build.path).output() else {
        skip("no gdb");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut values: Vec<Option<u64>> = text
        .split("\n;\n")
        .map(|part| part.lines().find_map(|line| line.strip_prefix('=')?.parse().ok()))
        .collect();
    values.truncate(expressions.len());
    Some(values)
}

/// Pairs of an expression for gdb and what was decoded.
fn offsets(layout: &Layout) -> Vec<(String, u64)> {
    let fields = layout.fields();
    let build = &layout.build;
    let mut pairs = Vec::new();
    let mut add = |type_name: &str, field: &str, value: u64| {
        pairs.push((format!("&(({type_name} *)0)->{field}"), value));
    };
    for (field, value) in [
        ("glref", fields.l_glref),
        ("base", fields.l_base),
        ("top", fields.l_top),
        ("maxstack", fields.l_maxstack),
        ("stack", fields.l_stack),
        ("cframe", fields.l_cframe),
        ("gct", fields.gct),
        ("openupval", fields.l_openupval),
        ("stacksize", fields.l_stacksize),
    ] {
        add("lua_State", field, value.into());
    }
    for (field, value) in [
        ("colo", fields.tab_colo),
        ("array", fields.tab_array),
        ("node", fields.tab_node),
        ("metatable", fields.tab_metatable),
        ("asize", fields.tab_asize),
        ("hmask", fields.tab_hmask),
    ] {
        add("GCtab", field, value.into());
    }
    add("GCudata", "len", fields.ud_len.into());
    add("GCfuncC", "nupvalues", u64::from(fields.fn_ffid) + 1);
    // as heap/ has them
    add("CTState", "sizetab", 12);
    for (field, value) in [
        ("numparams", fields.pt_numparams),
        ("sizebc", fields.pt_sizebc),
        ("k", fields.pt_k),
        ("sizekgc", fields.pt_sizekgc),
        ("sizept", fields.pt_sizept),
        ("sizeuv", fields.pt_sizeuv),
        ("chunkname", fields.pt_chunkname),
        ("firstline", fields.pt_firstline),
        ("numline", fields.pt_numline),
        ("lineinfo", fields.pt_lineinfo),
        ("uvinfo", fields.pt_uvinfo),
        ("varinfo", fields.pt_varinfo),
    ] {
        add("GCproto", field, value.into());
    }
    add("GCfuncC", "ffid", fields.fn_ffid.into());
    add("GCfuncL", "pc", fields.fn_pc.into());
    add("GCfuncC", "f", fields.fn_c.into());
    add("GCfuncC", "env", fields.fn_env.into());
    add("GCfuncL", "uvptr", u64::from(fields.fn_pc + fields.ref_size));
    add("GCupval", "v", fields.uv_v.into());
    add("GCudata", "udtype", u64::from(fields.gct) + 1);
    add("GCcdata", "ctypeid", u64::from(fields.gct) + 1);
    // as callee.rs has them
    add("CTState", "top", 8);
    add("CTState", "g", 24);
    add("CLibrary", "cache", 8);
    let behind_jit_base = u64::from(build.jit_base) + u64::from(fields.ref_size);
    add("global_State", "ctype_state", behind_jit_base);
    add("global_State", "vmstate", build.vmstate.into());
    add("global_State", "cur_L", build.cur_l.into());
    add("global_State", "jit_base", build.jit_base.into());
    let gc = |offset: u16| u64::from(build.gc_total) + u64::from(offset);
    for (field, value) in [
        ("gc.total", 0),
        ("gc.currentwhite", fields.gc_currentwhite),
        ("gc.state", fields.gc_currentwhite + 1),
        ("gc.grayagain", fields.gc_grayagain),
        ("gc.estimate", fields.gc_estimate),
        ("gc.root", fields.gc_root),
        ("gc.mmudata", fields.gc_mmudata),
        ("gc.debt", fields.gc_debt),
        ("gc.stepmul", fields.gc_stepmul),
        ("gc.pause", fields.gc_stepmul + 4),
    ] {
        add("global_State", field, gc(value));
    }
    let g = "(unsigned long)&((GG_State *)0)->g";
    pairs.push((
        format!("(unsigned long)&((GG_State *)0)->dispatch - {g}"),
        build.g2disp.into(),
    ));
    pairs.push(("sizeof(GCproto)".to_owned(), fields.pt_size.into()));
    pairs.push(("sizeof(GCudata)".to_owned(), fields.ud_size.into()));
    pairs.push(("sizeof(GCcdata)".to_owned(), fields.cd_size.into()));
    pairs.push(("sizeof(CType)".to_owned(), fields.ctype_size.into()));
    pairs.push(("sizeof(GCtab)".to_owned(), fields.tab_size.into()));
    pairs.push(("sizeof(GCupval)".to_owned(), fields.uv_size.into()));
    if build.trace != 0 {
        pairs.push((
            format!("(unsigned long)&((GG_State *)0)->J.trace - {g}"),
            build.trace.into(),
        ));
        pairs.push((
            format!("(unsigned long)&((GG_State *)0)->J.sizetrace - {g}"),
            build.sizetrace.into(),
        ));
    }
    pairs
}

fn trace_offsets(fields: &moonscope_luajit::TraceFields) -> Vec<(String, u64)> {
    let mut pairs: Vec<(String, u64)> = [
        ("nsnap", fields.nsnap),
        ("ir", fields.ir),
        ("nk", fields.nk),
        ("snap", fields.snap),
        ("snapmap", fields.snapmap),
        ("startpt", fields.startpt),
        ("startpc", fields.startpc),
        ("startins", fields.startins),
        ("szmcode", fields.szmcode),
        ("mcode", fields.mcode),
        ("traceno", fields.traceno),
        ("link", fields.link),
        ("root", fields.root),
    ]
    .map(|(field, value)| (format!("&((GCtrace *)0)->{field}"), value.into()))
    .to_vec();
    pairs.push(("sizeof(SnapShot)".to_owned(), fields.snapshot_size.into()));
    pairs.push((
        "&((SnapShot *)0)->nslots".to_owned(),
        fields.snapshot_nslots.into(),
    ));
    if let Some(mcofs) = fields.snapshot_mcofs {
        pairs.push(("&((SnapShot *)0)->mcofs".to_owned(), mcofs.into()));
    }
    pairs
}

fn differences(build: &Build, pairs: &[(String, u64)]) -> Option<Vec<String>> {
    let expressions: Vec<String> = pairs.iter().map(|(expression, _)| expression.clone()).collect();
    let values = gdb(build, &expressions)?;
    Some(
        pairs
            .iter()
            .zip(values)
            .filter(|((_, decoded), value)| *value != Some(*decoded))
            .map(|((expression, decoded), value)| format!("{expression}: {decoded:#x}, gdb {value:x?}"))
            .collect(),
    )
}

#[test]
fn decoded_offsets_are_those_of_the_debug_information() {
    let builds = common::builds();
    let builds: Vec<&Build> = builds.iter().filter(|build| build.has_debug_info()).collect();
    if builds.is_empty() {
        return skip("no LuaJIT with debug information");
    }
    for build in builds {
        let layout = build.layout();
        let Some(wrong) = differences(build, &offsets(&layout)) else {
            return;
        };
        assert!(wrong.is_empty(), "{}: {wrong:#?}", build.path.display());
        if layout.build.trace == 0 {
            continue;
        }
        // exactly one of the known layouts of traces is that of the build
        let mut known = traces::candidates(layout.mode).iter().filter(|fields| {
            let mcofs = differences(build, &[("&((SnapShot *)0)->mcofs".to_owned(), 6)])
                .unwrap()
                .is_empty();
            differences(build, &trace_offsets(fields)).unwrap().is_empty()
                && mcofs == fields.snapshot_mcofs.is_some()
        });
        let fields = known
            .next()
            .unwrap_or_else(|| panic!("{}: unknown traces", build.path.display()));
        assert!(known.next().is_none());
        // the code tells the newest, and only it
        let told = fields.snapshot_mcofs.is_some().then_some(*fields);
        assert_eq!(layout.trace, told, "{}", build.path.display());
        println!(
            "{}: equal, traces {}",
            build.path.display(),
            if told.is_some() {
                "told by code"
            } else {
                "to settle"
            }
        );
    }
}

#[test]
fn coroutines_begin_and_yield_where_symbols_say() {
    /// More than the instructions of coroutine.yield before its first store take.
    const BEGINNING: u64 = 64;
    let mut compared = 0;
    for build in common::builds() {
        let name = build.path.display();
        let probes = match coroutine_probes(&build.file, &build.vm()) {
            Ok(probes) => probes,
            // a stripped program need not name what it has linked in
            Err(NoProbes::NoSymbol(_)) => continue,
            Err(err) => panic!("{name}: {err}"),
        };
        let at = |offset| build.address_of_offset(offset).unwrap();
        for (symbol, offset) in [("lua_resume", probes.resume), ("lua_yield", probes.c_yield)] {
            // one that is stripped has only those for the linker
            if let Some(address) = build.symbol(symbol) {
                assert_eq!(address, at(offset), "{symbol} of {name}");
            }
        }
        if let Some(start) = build.symbol("lj_ff_coroutine_yield") {
            compared += 1;
            let place = at(probes.builtin_yield);
            assert!(
                (start..start + BEGINNING).contains(&place),
                "{name}: {place:#x} {start:#x}"
            );
        }
    }
    println!("{compared} builds name coroutine.yield");
}

#[test]
fn the_parts_of_a_vm_are_where_its_symbols_are() {
    let mut compared = 0;
    for build in common::builds() {
        let vm = build.vm();
        let mut check = |symbol: &str, found: Option<u64>| {
            if let Some(address) = build.symbol(symbol) {
                compared += 1;
                assert_eq!(found, Some(address), "{symbol} of {}", build.path.display());
            }
        };
        check("lj_vm_asm_begin", Some(vm.start));
        check("lj_vm_resume", Some(vm.entries.resume));
        check("lj_vm_pcall", Some(vm.entries.pcall));
        check("lj_vm_call", Some(vm.entries.call));
        check("lj_vm_cpcall", Some(vm.entries.cpcall));
        check("lj_vm_returnp", Some(vm.handlers_end));
        check("lj_vm_call_dispatch", Some(vm.dispatch.start));
        if vm.entries.ffi_callback.is_some() {
            check("lj_vm_ffi_callback", vm.entries.ffi_callback);
            check("lj_vm_ffi_call", Some(vm.end));
        }
        let gcstep = build.symbol("lj_fff_gcstep");
        check("lj_fff_gcstep", gcstep.filter(|&at| vm.helper(at).is_some()));
        let floor = vm
            .helpers
            .iter()
            .map(|row| row.start)
            .find(|&at| at > gcstep.unwrap_or(0) + 0x100);
        check("lj_vm_floor", floor);
        for (symbol, far) in [
            ("lj_vm_unwind_c", 0),
            ("lj_vm_unwind_ff", 0),
            ("lj_vm_exit_handler", 0),
        ] {
            let starts = |at: u64| vm.below.iter().any(|range| range.start == at + far);
            if vm.below.len() > 2 || symbol != "lj_vm_exit_handler" {
                check(symbol, build.symbol(symbol).filter(|&at| starts(at)));
            }
        }
    }
    if compared == 0 {
        skip("no LuaJIT with symbols");
    }
}
