//! Shows what is known of the LuaJIT in a file or a process: `luajit_info FILE|PID`.

use std::error::Error;
use std::time::Instant;

use moonscope_luajit::heap::{Census, Collector, HeapBudget, HeapLayout, Holders, Kind, Names, Spending};
use moonscope_luajit::{Layout, ScanBudget, VmText, Window, decode_layout, find_vms, scan, traces};
use moonscope_process::{Mapping, ProcessMemory, read_maps};

fn main() -> Result<(), Box<dyn Error>> {
    let target = std::env::args().nth(1).ok_or("usage: luajit_info FILE|PID")?;
    match target.parse::<u32>() {
        Ok(pid) => process(pid),
        Err(_) => {
            let file = std::fs::read(&target)?;
            file_info(&file)?;
            Ok(())
        }
    }
}

fn file_info(file: &[u8]) -> Result<Vec<VmText>, Box<dyn Error>> {
    let start = Instant::now();
    let vms = find_vms(file)?;
    println!("{} VM in {:?}", vms.len(), start.elapsed());
    for vm in &vms {
        println!(
            "text {:#x}..{:#x} {:?} frame {} entries {:x?}",
            vm.start, vm.end, vm.mode, vm.cframe_size, vm.entries
        );
        println!("handlers end {:#x} dispatch {:x?}", vm.handlers_end, vm.dispatch);
        println!("below {:x?}", vm.below);
        rows("window", &vm.windows);
        rows("helper", &vm.helpers);
        let start = Instant::now();
        let layout = decode_layout(file, vm);
        println!("layout in {:?}: {layout:x?}", start.elapsed());
    }
    Ok(vms)
}

fn rows(what: &str, rows: &[Window]) {
    for row in rows {
        let saved: Vec<String> = row
            .saved
            .iter()
            .map(|saved| format!("r{}@{}", saved.register, saved.cfa_offset))
            .collect();
        println!(
            "{what} {:#x}..{:#x} cfa=rsp+{} {} {:?}",
            row.start,
            row.end,
            row.cfa_offset,
            saved.join(" "),
            row.caller_base
        );
    }
}

fn process(pid: u32) -> Result<(), Box<dyn Error>> {
    let maps = read_maps(pid)?;
    let memory = ProcessMemory::new(pid);
    let mut files: Vec<&Mapping> = maps
        .iter()
        .filter(|map| map.executable && map.inode != 0)
        .collect();
    files.dedup_by_key(|map| (map.device, map.inode));
    for map in files {
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", map.start, map.end);
        let Ok(file) = std::fs::read(&path) else {
            continue;
        };
        let start = Instant::now();
        let vms = find_vms(&file).unwrap_or_default();
        let took = start.elapsed();
        println!(
            "{:?}: {} VM in {took:?}, {} bytes",
            map.name,
            vms.len(),
            file.len()
        );
        for vm in vms {
            let layout = decode_layout(&file, &vm)?;
            let bias = bias(&file, map).ok_or("the mapping is not in the file")?;
            let text = vm.start.wrapping_add(bias)..vm.end.wrapping_add(bias);
            println!("{text:x?} {layout:x?}");
            let start = Instant::now();
            let found = scan(&memory, &maps, text, &layout, ScanBudget::default())?;
            println!("{found:x?} in {:?}", start.elapsed());
            for found in &found.vms {
                println!(
                    "g {:#x} traces {:x?}",
                    found.g,
                    traces::settle(&memory, found.g, &layout)
                );
                heap(&memory, found.g, &layout);
            }
        }
    }
    Ok(())
}

fn heap(memory: &ProcessMemory, g: u64, layout: &Layout) {
    let heap = match HeapLayout::find(memory, g, layout) {
        Ok(heap) => heap,
        Err(err) => return println!("{err}"),
    };
    println!("{:?}", Collector::read(memory, &heap));
    let start = Instant::now();
    let mut no_words = |_| {};
    let mut spending = Spending::new(HeapBudget::default(), &mut no_words);
    match Holders::find(memory, &heap, Names::OfCode, &mut spending) {
        Ok(found) => {
            let large = found
                .all
                .iter()
                .filter(|holder| holder.held_bytes * 200 > found.bytes);
            for holder in large {
                let mut name = holder.name.clone();
                let mut parent = holder.parent;
                while let Some(of) = parent.and_then(|parent| found.all.get(parent)) {
                    name.insert_str(0, &of.name);
                    parent = of.parent;
                }
                println!("{} {} {name}", holder.held_bytes, holder.count);
            }
            println!(
                "{} bytes {} torn {:?} in {:?}",
                found.bytes,
                found.torn,
                found.end,
                start.elapsed()
            );
        }
        Err(err) => println!("{err}"),
    }
    let start = Instant::now();
    match Census::take(memory, &heap, HeapBudget::default(), &mut |_| {}) {
        Ok(census) => {
            for kind in Kind::ALL {
                println!("{}: {:?}", kind.as_str(), census.of(kind));
            }
            let (torn, end) = (census.torn(), census.end);
            println!(
                "{:?} unexplained {} torn {torn} {end:?}",
                census.own,
                census.unexplained()
            );
            println!("{:?} in {:?}", census.total, start.elapsed());
        }
        Err(err) => println!("{err}"),
    }
}

/// What to add to an address of the file to get that of the process.
fn bias(file: &[u8], map: &Mapping) -> Option<u64> {
    use object::{Object, ObjectSegment};
    let elf = object::File::parse(file).ok()?;
    elf.segments().find_map(|segment| {
        let (offset, size) = segment.file_range();
        let inside = map.offset.checked_add(4095)?.checked_sub(offset)?;
        (inside < size + 4096).then(|| {
            map.start
                .wrapping_sub(map.offset)
                .wrapping_add(offset)
                .wrapping_sub(segment.address())
        })
    })
}
