//! The names under which allocators are called, and what each is called with.

use moonscope_unwind::abi;

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It allocates: `enum ms_alloc_call`.
    Allocates(u32),
    /// It frees its first argument.
    Frees,
}

/// glibc's and musl's other names of their own; jemalloc with a prefix, as Rust has it too; tcmalloc; mimalloc.
const PREFIXES: [&str; 6] = ["", "__libc_", "je_", "_rjem_", "tc_", "mi_"];

const SIZE: Role = Role::Allocates(abi::MS_ALLOC_SIZE);
const PRODUCT: Role = Role::Allocates(abi::MS_ALLOC_PRODUCT);
const SECOND: Role = Role::Allocates(abi::MS_ALLOC_SECOND);
const OUT: Role = Role::Allocates(abi::MS_ALLOC_OUT);
const RESIZE: Role = Role::Allocates(abi::MS_ALLOC_RESIZE);
const RESIZE_PRODUCT: Role = Role::Allocates(abi::MS_ALLOC_RESIZE_PRODUCT);

const FUNCTIONS: [(&str, Role); 19] = [
    ("malloc", SIZE),
    ("calloc", PRODUCT),
    ("realloc", RESIZE),
    ("reallocarray", RESIZE_PRODUCT),
    ("aligned_alloc", SECOND),
    ("posix_memalign", OUT),
    ("memalign", SECOND),
    ("valloc", SIZE),
    ("pvalloc", SIZE),
    ("free", Role::Frees),
    ("cfree", Role::Frees),
    // C23
    ("free_sized", Role::Frees),
    ("free_aligned_sized", Role::Frees),
    // jemalloc(3)
    ("mallocx", SIZE),
    ("rallocx", RESIZE),
    ("dallocx", Role::Frees),
    ("sdallocx", Role::Frees),
    // mimalloc.h
    ("zalloc", SIZE),
    ("malloc_aligned", SIZE),
];

/// `operator new` and `new[]`, `delete` and `delete[]` of the Itanium C++ ABI with 64-bit sizes.
const NEW: [&str; 2] = ["_Znwm", "_Znam"];
const DELETE: [&str; 2] = ["_ZdlPv", "_ZdaPv"];

/// What the function of this name does, if it is one of an allocator.
pub fn role(name: &str) -> Option<Role> {
    if is_operator(name) {
        let news = NEW.iter().any(|new| name.starts_with(new));
        return Some(if news { SIZE } else { Role::Frees });
    }
    PREFIXES.iter().find_map(|prefix| {
        let rest = name.strip_prefix(prefix)?;
        let (_, role) = FUNCTIONS.iter().find(|(known, _)| *known == rest)?;
        Some(*role)
    })
}

/// Is it one of C++'s operators? That of a library which leaves the work to `malloc` needs no probe of its own.
pub fn is_operator(name: &str) -> bool {
    let arguments = |name: &str| {
        let name = name.strip_prefix("St11align_val_t").unwrap_or(name);
        name.is_empty() || name == "RKSt9nothrow_t"
    };
    let news = NEW.iter().filter_map(|new| name.strip_prefix(new));
    let deletes = DELETE.iter().filter_map(|delete| name.strip_prefix(delete));
    news.chain(deletes.map(|rest| rest.strip_prefix('m').unwrap_or(rest)))
        .any(arguments)
}

/// Does a function of this name return its first argument (string.h)?
pub fn returns_first(name: &str) -> bool {
    let name = name.trim_start_matches('_');
    ["memset", "memcpy", "memmove"].iter().any(|known| {
        name.strip_prefix(known)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_prefix_are_known_and_others_are_not() {
        assert_eq!(role("malloc"), Some(SIZE));
        assert_eq!(role("_rjem_realloc"), Some(RESIZE));
        assert_eq!(role("__libc_free"), Some(Role::Frees));
        assert_eq!(role("malloc_usable_size"), None);
        assert_eq!(role("xmalloc"), None);
    }

    #[test]
    fn operators_have_several_forms() {
        for name in [
            "_Znwm",
            "_ZnamRKSt9nothrow_t",
            "_ZnwmSt11align_val_t",
            "_ZnwmSt11align_val_tRKSt9nothrow_t",
        ] {
            assert_eq!(role(name), Some(SIZE), "{name}");
        }
        for name in [
            "_ZdlPv",
            "_ZdaPvm",
            "_ZdlPvmSt11align_val_t",
            "_ZdlPvRKSt9nothrow_t",
        ] {
            assert_eq!(role(name), Some(Role::Frees), "{name}");
        }
        // placement, and another function
        assert_eq!(role("_ZnwmPv"), None);
        assert_eq!(role("_ZdlPvS_"), None);
    }

    #[test]
    fn what_returns_its_first_argument_has_many_names() {
        assert!(returns_first("memset") && returns_first("__memset_avx2_unaligned_erms"));
        assert!(!returns_first("memsettle") && !returns_first("wmemset"));
    }
}
