//! A terminal that is looked at from outside: tmux(1), with a shell in it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::{tool, wait_until};

/// A terminal with a shell. It ends when it is dropped, or with the thread that started it.
pub struct Tmux {
    server: Child,
    dir: tempfile::TempDir,
}

impl Tmux {
    /// Starts it, 80 columns and 24 rows; skips the test without tmux.
    pub fn start() -> Option<Self> {
        let tmux = tool("tmux")?;
        let dir = tempfile::tempdir().unwrap();
        let mut server = Command::new(tmux);
        server
            .arg("-S")
            .arg(dir.path().join("socket"))
            .args(["-f", "/dev/null", "-D"])
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: prctl(2) may be called between fork and exec.
        let server = unsafe {
            server.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            })
        };
        let tmux = Self {
            server: server.spawn().unwrap(),
            dir,
        };
        // a shell that leaves the terminal's modes alone
        let session = ["new-session", "-d", "-x", "80", "-y", "24", "sh -i"];
        wait_until("tmux takes commands", || tmux.try_ask(&session).is_some());
        Some(tmux)
    }

    fn try_ask(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(self.dir.path().join("socket"))
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    fn ask(&self, args: &[&str]) -> String {
        self.try_ask(args)
            .unwrap_or_else(|| panic!("tmux {args:?} failed"))
    }

    /// The folder that the shell runs in.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// The same with the sequences that make colours.
    pub fn coloured(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e"])
    }

    /// Presses keys, by tmux's names for them.
    pub fn press(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Types a command and Enter.
    pub fn type_line(&self, line: &str) {
        self.ask(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.ask(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// Waits until the screen is like this; gives it.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let begin = std::time::Instant::now();
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return screen;
            }
            assert!(
                begin.elapsed().as_secs() < 60,
                "waited a minute for {what}:\n{screen}"
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Waits until programs find the terminal as a shell has it: the first screen, with a cursor; lines are edited, and
    /// typed characters shown.
    #[track_caller]
    pub fn wait_until_given_back(&self) {
        let state = || self.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        wait_until("the first screen and the cursor are back", || {
            state().trim() == "0 1"
        });
        let tty = self.ask(&["display-message", "-p", "#{pane_tty}"]);
        let stty = || {
            let output = Command::new("stty")
                .args(["-a", "-F", tty.trim()])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        wait_until("the modes of the terminal are back", || {
            let modes = stty();
            let has = |mode: &str| modes.split_whitespace().any(|word| word == mode);
            ["icanon", "echo", "isig", "opost"].into_iter().all(has)
        });
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.try_ask(&["kill-server"]);
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
