//! Reading a mapped file that somebody truncates must not end moonscope.
//!
//! A page of a file mapping that lies past the end of the file raises SIGBUS when it is touched
//! (mmap(2)). A process can truncate a library it has mapped itself (only running programs are
//! protected, by ETXTBSY), so a hostile or just clumsy one could stop the profiler. The alternatives
//! do not serve: copying files needs as much memory as the file has (a libLLVM alone is some 110 MB,
//! and all of moonscope may take 150 MB), and asking for the size before each access still races.
//!
//! So the fault is answered: the handler puts a page of zeros there and the access goes on. A parser
//! then sees zeros, which it must take as it takes any damaged file. The handler looks at no list of
//! mappings, so it also protects the files that libraries under us map by themselves.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static INSTALL: Once = Once::new();
static PAGE_SIZE: AtomicUsize = AtomicUsize::new(4096);
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::zeroed()));

/// What was installed for SIGBUS before us (the standard library's stack overflow handler).
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once inside `INSTALL`, before the handler that reads it is in place.
unsafe impl Sync for Previous {}

/// Makes touching a truncated file mapping harmless, in the whole process and for good.
pub(crate) fn guard() {
    INSTALL.call_once(|| {
        PAGE_SIZE.store(rustix::param::page_size(), Ordering::Relaxed);
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        // SAFETY: all zeros is a valid sigaction (no handler, empty mask); the handler only does what a
        // signal handler may; both pointers are valid for the call. If it fails, there is no protection,
        // which is what was before.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // The old action must be known before the handler can run.
            libc::sigaction(libc::SIGBUS, ptr::null(), PREVIOUS.0.get().cast());
            libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
        }
    });
}

extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo to an SA_SIGINFO handler. mmap, sigaction and raise are
    // plain system calls. MAP_FIXED replaces exactly the page that has just faulted: nothing could be
    // read from it, so nothing is lost. errno belongs to the interrupted code and is put back.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        if (*info).si_code == libc::BUS_ADRERR {
            let size = PAGE_SIZE.load(Ordering::Relaxed);
            let page = (*info).si_addr() as usize & !(size - 1);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let zeros = libc::mmap(page as *mut libc::c_void, size, libc::PROT_READ, flags, -1, 0);
            if zeros != libc::MAP_FAILED {
                *errno = saved;
                return;
            }
        }
        libc::sigaction(signal, PREVIOUS.0.get().cast(), ptr::null_mut());
        libc::raise(signal);
        *errno = saved;
    }
}
