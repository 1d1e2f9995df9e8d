use super::*;
use crate::Process;
use crate::mapped_file::open_by_path;
use crate::read_maps;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const SLEEP: &str = "/bin/sleep";

/// A child that is ended when the test is, also when it fails.
struct Running(Child);

impl Running {
    /// Starts a program and waits until it runs (not the shell that becomes it).
    fn start(command: &mut Command, exe: &Path) -> Self {
        let child = Self(command.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(20);
        while crate::process::exe(child.pid()).ok().as_deref() != Some(exe) {
            assert!(Instant::now() < until, "{} does not start", exe.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        // The dynamic loader has to map what it maps.
        let has_code = |pid| code(pid).is_some_and(|mapping| mapping.path() == Some(exe));
        while !has_code(child.pid()) {
            assert!(Instant::now() < until, "{} has no code", exe.display());
            std::thread::yield_now();
        }
        child
    }

    fn pid(&self) -> Pid {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The mapping of the code of a process's own executable: the first one that is executable.
fn code(pid: Pid) -> Option<Mapping> {
    read_maps(pid)
        .ok()?
        .into_iter()
        .find(|mapping| mapping.executable)
}

/// A copy of `sleep` with a mark at its end, so that its bytes are its own.
fn marked_copy(path: &Path, mark: &str) {
    let mut bytes = fs::read(SLEEP).unwrap();
    bytes.extend_from_slice(mark.as_bytes());
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this test mounts something and reads map_files: run it as root");
    }
    root
}

#[test]
fn our_own_executable_is_found_and_its_addresses_translate() {
    let here = our_own_executable_is_found_and_its_addresses_translate as *const () as u64;
    let maps = read_maps(std::process::id()).unwrap();
    let mapping = maps.iter().find(|mapping| mapping.contains(here)).unwrap();
    let executable = Executable::open(std::process::id(), mapping).unwrap();
    assert_eq!(executable.path(), std::env::current_exe().unwrap());
    let bias = executable.bias(mapping).unwrap();
    let offset = mapping.file_offset(here).unwrap();
    let vaddr = executable.vaddr_of_offset(offset).unwrap();
    assert_eq!(vaddr, here.wrapping_sub(bias));
    assert_eq!(executable.offset_of_vaddr(vaddr), Some(offset));
    // The truth: the bytes at that place of the file are the code of this function.
    // SAFETY: the code of this function is at least 16 bytes long and mapped readable.
    let code = unsafe { std::slice::from_raw_parts(here as *const u8, 16) };
    let offset = usize::try_from(offset).unwrap();
    assert_eq!(&executable.data().unwrap()[offset..offset + 16], code);
    let mut read = [0; 16];
    executable.read_exact_at(&mut read, offset as u64).unwrap();
    assert_eq!(read, code);
}

#[test]
fn all_mappings_of_our_executable_have_the_same_bias() {
    let exe = std::env::current_exe().unwrap();
    let maps = read_maps(std::process::id()).unwrap();
    let ours: Vec<_> = maps
        .iter()
        .filter(|mapping| mapping.path() == Some(&exe))
        .collect();
    assert!(ours.len() > 1);
    let biases: Vec<_> = ours
        .iter()
        .map(|m| Executable::open(std::process::id(), m).unwrap().bias(m).unwrap())
        .collect();
    assert!(biases.iter().all(|bias| *bias == biases[0]), "{biases:x?}");
}

#[test]
fn the_vdso_is_an_elf_file() {
    let maps = read_maps(std::process::id()).unwrap();
    let mapping = maps
        .iter()
        .find(|mapping| mapping.name == MappingName::Vdso)
        .unwrap();
    let vdso = Executable::open(std::process::id(), mapping).unwrap();
    assert_eq!(
        (vdso.name(), vdso.path(), vdso.fd_path()),
        ("[vdso]", Path::new("[vdso]"), None)
    );
    assert!(vdso.data().unwrap().starts_with(b"\x7fELF"));
    assert_eq!(vdso.bias(mapping), Some(mapping.start));
    assert_eq!(
        vdso.key(),
        Executable::vdso(std::process::id(), mapping).unwrap().key()
    );
}

#[test]
fn a_build_id_is_what_readelf_says() {
    let Ok(output) = Command::new("readelf").args(["-n", SLEEP]).output() else {
        return eprintln!("SKIPPED: no readelf here");
    };
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let truth = output
        .split("Build ID: ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap();
    assert_eq!(
        Executable::open_path(Path::new(SLEEP))
            .unwrap()
            .build_id()
            .unwrap()
            .to_string(),
        truth
    );
}

#[test]
fn the_same_build_id_in_another_file_is_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let (copy, forged) = (dir.path().join("copy"), dir.path().join("forged"));
    fs::copy(SLEEP, &copy).unwrap();
    let mut bytes = fs::read(SLEEP).unwrap();
    let (offset, _) = Headers::read(bytes.as_slice()).unwrap().eh_frame_hdr.unwrap();
    // One function of the search table lies elsewhere; size and headers are unchanged.
    bytes[usize::try_from(offset).unwrap() + 16] ^= 1;
    fs::write(&forged, bytes).unwrap();
    let [original, copy, forged] =
        [Path::new(SLEEP), &copy, &forged].map(|path| Executable::open_path(path).unwrap());
    assert_eq!(original.build_id(), forged.build_id());
    assert_eq!(original.key(), copy.key());
    assert_ne!(original.key(), forged.key());
}

#[test]
fn data_is_shared_and_given_back() {
    let executable = Executable::open_path(Path::new(SLEEP)).unwrap();
    let first = executable.data().unwrap();
    let second = executable.data().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(first.len() as u64, executable.size());
    drop((first, second));
    assert!(executable.data.lock().unwrap().upgrade().is_none());
}

#[test]
fn a_file_truncated_while_it_is_mapped_reads_as_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shrinks");
    marked_copy(&path, "end");
    let executable = Executable::open_path(&path).unwrap();
    let data = executable.data().unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    // Without the handler this ends the test program by SIGBUS.
    assert!(data.iter().all(|&byte| byte == 0));
    assert!(data.len() > 4096);
}

#[test]
fn what_is_no_elf_file_is_refused_in_words() {
    let message = |path: &str| Executable::open_path(Path::new(path)).unwrap_err().to_string();
    assert_eq!(message("/etc/passwd"), "/etc/passwd: not an ELF file");
    assert_eq!(message("/dev/null"), "/dev/null: not a regular file");
    assert!(message("/nonexistent").starts_with("/nonexistent: no such file"));
}

#[test]
fn anonymous_memory_is_no_executable() {
    let maps = read_maps(std::process::id()).unwrap();
    let stack = maps
        .iter()
        .find(|mapping| mapping.name == MappingName::Stack)
        .unwrap();
    let result = Executable::open(std::process::id(), stack);
    assert!(matches!(result, Err(ProcessError::BadElf { .. })));
}

#[test]
fn root_a_deleted_file_is_still_opened() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone");
    marked_copy(&path, "deleted");
    let child = Running::start(Command::new(&path).arg("60"), &path);
    fs::remove_file(&path).unwrap();
    let mapping = code(child.pid()).unwrap();
    assert_eq!(
        mapping.name,
        MappingName::File {
            path: path.clone(),
            deleted: true
        }
    );
    let executable = Executable::open(child.pid(), &mapping).unwrap();
    assert_eq!((executable.name(), executable.path()), ("gone", path.as_path()));
    assert!(executable.data().unwrap().ends_with(b"deleted"));
    drop(child);
    assert!(
        fs::read(executable.fd_path().unwrap())
            .unwrap()
            .ends_with(b"deleted"),
        "also after its exit"
    );
}

#[test]
fn root_a_replaced_file_is_not_taken_for_the_old_one() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, next) = (dir.path().join("service"), dir.path().join("next"));
    marked_copy(&path, "old");
    let child = Running::start(Command::new(&path).arg("60"), &path);
    marked_copy(&next, "new");
    let mapping = code(child.pid()).unwrap();
    fs::rename(&next, &path).unwrap();
    assert!(
        Executable::open(child.pid(), &mapping)
            .unwrap()
            .data()
            .unwrap()
            .ends_with(b"old")
    );
    // The way without map_files must refuse: the name now leads to something else.
    let result = open_by_path(child.pid(), &mapping, &path, None);
    assert!(matches!(result, Err(ProcessError::FileGone { .. })), "{result:?}");
    let deleted = code(child.pid()).unwrap();
    assert!(matches!(
        open_by_path(child.pid(), &deleted, &path, None),
        Err(ProcessError::FileGone { .. })
    ));
}

#[test]
fn root_a_file_of_another_mount_namespace_is_not_taken_from_ours() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, inside) = (dir.path().join("service"), dir.path().join("inside"));
    marked_copy(&path, "outside");
    marked_copy(&inside, "inside");
    let script = format!(
        "mount --bind {} {} && exec {} 60",
        inside.display(),
        path.display(),
        path.display()
    );
    let child = Running::start(
        Command::new("unshare").args(["--mount", "sh", "-c", &script]),
        &path,
    );
    let mapping = code(child.pid()).unwrap();
    let executable = Executable::open(child.pid(), &mapping).unwrap();
    assert!(executable.data().unwrap().ends_with(b"inside"));
    let by_path = open_by_path(child.pid(), &mapping, &path, None).unwrap();
    assert!(
        fs::read(format!("/proc/self/fd/{}", by_path.as_raw_fd()))
            .unwrap()
            .ends_with(b"inside")
    );
    let mut beside = executable.open_beside(&path).unwrap();
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut beside, &mut bytes).unwrap();
    assert!(bytes.ends_with(b"inside"));
    drop((child, bytes));
    // Its root can still be searched, though without what was mounted below it.
    assert!(executable.open_beside(Path::new(SLEEP)).is_ok());
}

#[test]
fn root_links_of_a_container_do_not_lead_out_of_it() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("secret"), "host").unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../secret", root.join("relative")).unwrap();
    std::os::unix::fs::symlink("/file", root.join("good")).unwrap();
    fs::write(root.join("file"), "inside").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    // A program that needs nothing of its root: it was started before the root changed.
    let script = r#"use POSIX; chroot $ARGV[0] or die; chdir "/"; sleep 60"#;
    let Ok(perl) = Command::new("perl").args(["-e", script]).arg(&root).spawn() else {
        return eprintln!("SKIPPED: no perl here");
    };
    let perl = Running(perl);
    let until = Instant::now() + Duration::from_secs(20);
    while fs::read_link(format!("/proc/{}/root", perl.pid())).ok().as_ref() != Some(&root) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    let open = |name: &str| crate::open_in_root(perl.pid(), Path::new(name));
    assert!(open("/good").is_ok());
    assert!(open("/absolute").is_err());
    assert!(open("/relative").is_err());
    assert!(open("/../../secret").is_err());
    assert!(open("/pipe").is_err(), "and does not wait for a writer");
}

#[test]
fn root_a_program_that_was_started_in_another_root_is_opened_both_ways() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("srv")).unwrap();
    let source = dir.path().join("wait.c");
    fs::write(
        &source,
        "#include <unistd.h>\nint main(void) { return sleep(60); }",
    )
    .unwrap();
    let program = root.join("srv/wait");
    let gcc = Command::new("gcc")
        .args(["-static", "-o"])
        .args([&program, &source])
        .status();
    if !gcc.is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: no gcc here that links statically");
    }
    let child = Running::start(Command::new("chroot").arg(&root).arg("/srv/wait"), &program);
    let mapping = code(child.pid()).unwrap();
    let executable = Executable::open(child.pid(), &mapping).unwrap();
    // the kernel names it as we see it
    assert_eq!(executable.path(), program);
    assert_eq!(executable.path_in_root(executable.path()), Path::new("/srv/wait"));
    assert!(executable.open_beside(Path::new("/srv/wait")).is_ok());
    let by_path = open_by_path(child.pid(), &mapping, executable.path(), None).unwrap();
    assert_eq!(
        by_path.metadata().unwrap().ino(),
        fs::metadata(&program).unwrap().ino()
    );
}

#[test]
fn root_a_file_on_an_overlay_is_opened_both_ways() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    marked_copy(&dir.path().join("lower/service"), "lower");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("lower"),
        at("upper"),
        at("work")
    );
    let merged = at("merged");
    let script = format!("mount -t overlay overlay -o {options} {merged} && exec {merged}/service 60");
    let path = dir.path().join("merged/service");
    let child = Running::start(
        Command::new("unshare").args(["--mount", "sh", "-c", &script]),
        &path,
    );
    let mapping = code(child.pid()).unwrap();
    assert!(!path.exists(), "the path must only exist inside");
    assert!(
        Executable::open(child.pid(), &mapping)
            .unwrap()
            .data()
            .unwrap()
            .ends_with(b"lower")
    );
    open_by_path(child.pid(), &mapping, &path, None).unwrap();
    // What older kernels show in `maps` is the device below the overlay: then the bytes decide.
    let other_device = Mapping {
        device: (0xfff, 0xfff),
        ..mapping.clone()
    };
    open_by_path(child.pid(), &other_device, &path, None).unwrap();
    let other_inode = Mapping {
        inode: mapping.inode + 1,
        ..mapping
    };
    assert!(matches!(
        open_by_path(child.pid(), &other_inode, &path, None),
        Err(ProcessError::FileGone { .. })
    ));
}

#[test]
fn an_exited_process_is_gone_and_nothing_else() {
    let path = fs::canonicalize(SLEEP).unwrap();
    let child = Running::start(Command::new(SLEEP).arg("60"), &path);
    let mapping = code(child.pid()).unwrap();
    let pid = child.pid();
    assert!(Process::find(pid).is_ok());
    drop(child);
    let err = Executable::open(pid, &mapping).unwrap_err();
    assert!(err.is_gone(), "{err}");
}

fn segment(vaddr: u64, offset: u64, filesz: u64, executable: bool) -> Segment {
    Segment {
        vaddr,
        offset,
        filesz,
        memsz: filesz,
        executable,
    }
}

fn mapping(start: u64, len: u64, offset: u64, executable: bool) -> Mapping {
    Mapping {
        start,
        end: start + len,
        offset,
        readable: true,
        writable: false,
        executable,
        shared: false,
        device: (8, 1),
        inode: 5,
        name: MappingName::File {
            path: "/x".into(),
            deleted: false,
        },
    }
}

#[test]
fn a_page_of_the_file_in_two_segments_belongs_to_the_one_with_the_right_permission() {
    // As lld lays out: the text begins in the page where the read-only data ends.
    let segments = [segment(0, 0, 0x1540, false), segment(0x2540, 0x1540, 0x800, true)];
    assert_eq!(
        bias(&segments, &mapping(0x7f0000001000, 0x1000, 0x1000, true), 4096),
        Some(0x7f0000001000 - 0x2000)
    );
    assert_eq!(
        bias(&segments, &mapping(0x7f0000000000, 0x2000, 0, false), 4096),
        Some(0x7f0000000000)
    );
    assert_eq!(vaddr_of_offset(&segments, 0x1540), Some(0x2540));
    assert_eq!(vaddr_of_offset(&segments, 0x153f), Some(0x153f));
    assert_eq!(vaddr_of_offset(&segments, 0x1d40), None);
}

#[test]
fn a_split_mapping_keeps_the_bias_and_a_foreign_one_has_none() {
    let segments = [segment(0x40_0000, 0, 0x9000, true)];
    assert_eq!(
        bias(&segments, &mapping(0x40_3000, 0x1000, 0x3000, true), 4096),
        Some(0)
    );
    assert_eq!(
        bias(&segments, &mapping(0x40_3000, 0x1000, 0x9000, true), 4096),
        None
    );
}

proptest! {
    #[test]
    fn hostile_segments_never_panic(
        parts in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()), 0..4),
        offset in any::<u64>(), start in 0..u64::MAX / 2,
    ) {
        let segments: Vec<_> = parts.into_iter().map(|(v, o, s, x)| segment(v, o, s, x)).collect();
        let _ = bias(&segments, &mapping(start, 0x1000, offset, true), 4096);
        let _ = vaddr_of_offset(&segments, offset);
    }
}
