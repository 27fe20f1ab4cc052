//! Questions that calve asks at a terminal.

use std::io::{self, BufRead as _, IsTerminal as _};

use calve::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Whether somebody sees a question and can answer.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// The line that the user types. `None`: a signal came, and a read would be begun again after it.
pub(crate) fn answer(cancel: &Cancel) -> Option<String> {
    const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    let stdin = io::stdin();
    loop {
        if cancel.is_cancelled() {
            return None;
        }
        let mut waiting = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut waiting, Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => {}
            _ => break,
        }
    }
    let mut line = String::new();
    // What cannot be read is no answer.
    let read = stdin.lock().read_line(&mut line);
    Some(if read.is_ok() { line } else { String::new() })
}
