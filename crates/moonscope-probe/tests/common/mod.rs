//! The test programs, and nginx under load, as the tests of the command start them.
#![allow(dead_code, unused_imports)] // the parts are used there

#[path = "../../../moonscope/tests/common/here.rs"]
pub mod here;
#[path = "../../../moonscope/tests/common/load.rs"]
pub mod load;
pub mod moved_pages;
#[path = "../../../moonscope/tests/common/program.rs"]
pub mod program;

pub use here::{repository, root, skip, tool, wait_until};
pub use moved_pages::MovedPages;
pub use program::{Program, program};
