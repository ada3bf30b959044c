//! Calls in which the process dies. A guest that brings the process down would bring it down again in every replay,
//! and nobody could deploy anything better. So a replay notes, in a file, the call that it is about to make; a start
//! that finds the same call there for the third time skips it, as one that failed.
//!
//! Only a replay pays for it: what dies while it is live dies in the replay too, or is gone. The file is not synced:
//! it has to survive the process, not the machine.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use watchfire_model::{Offset, PartitionId};

use crate::error::EngineError;

/// The process may die in one call so many times.
const DEATHS: u32 = 3;

/// Is told of calls.
pub(crate) trait CallWatch: Send {
    /// A call is about to be made. An error says why it must not be.
    fn begin(&mut self, offset: Offset, rule: &str, callback: u32) -> Result<(), String>;
    /// It is over.
    fn end(&mut self);
}

/// A call in which the process died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    pub offset: Offset,
    pub callback: u32,
    pub rule: String,
    /// How often.
    pub times: u32,
}

impl Death {
    /// Whether that was too often.
    pub fn is_enough(&self) -> bool {
        self.times >= DEATHS
    }
}

/// The note of one partition. It goes away with the replay.
pub(crate) struct Deaths {
    path: PathBuf,
    file: File,
    last: Option<Death>,
}

impl Deaths {
    /// Opens the note of a partition.
    pub fn open(folder: &Path, partition: PartitionId) -> Result<Self, EngineError> {
        let path = folder.join(format!("partition-{partition}.replaying"));
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(|error| EngineError::Checkpoint {
            path: path.display().to_string(),
            what: error.to_string(),
        })?;
        let mut text = String::new();
        // What cannot be read is as good as nothing: then the replay makes the call once more.
        let _ = std::io::Read::read_to_string(&mut &file, &mut text);
        let last = parse(&text);
        Ok(Self { path, file, last })
    }

    /// The call in which the process died last.
    pub fn last(&self) -> Option<&Death> {
        self.last.as_ref()
    }

    fn write(&self, text: &str) {
        // Padded, so that nothing of what stood there is left.
        if let Err(error) = self.file.write_all_at(format!("{text:<320}\n").as_bytes(), 0) {
            tracing::debug!(%error, "the call of a replay could not be noted");
        }
    }
}

fn parse(text: &str) -> Option<Death> {
    let mut words = text.trim_end().splitn(4, ' ');
    let (offset, callback, times) = (words.next()?, words.next()?, words.next()?);
    let (offset, callback, times) = (offset.parse().ok()?, callback.parse().ok()?, times.parse().ok()?);
    Some(Death { offset, callback, times, rule: words.next()?.to_string() })
}

impl CallWatch for Deaths {
    fn begin(&mut self, offset: Offset, rule: &str, callback: u32) -> Result<(), String> {
        let same = self
            .last
            .as_ref()
            .filter(|last| (last.offset, last.callback, last.rule.as_str()) == (offset, callback, rule));
        if let Some(death) = same.filter(|death| death.is_enough()) {
            return Err(format!("the process ended {} times in this call", death.times));
        }
        let times = same.map_or(0, |last| last.times) + 1;
        self.write(&format!("{offset} {callback} {times} {rule}"));
        Ok(())
    }

    fn end(&mut self) {
        self.write("");
    }
}

impl Drop for Deaths {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_place_and_counted_while_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Deaths::open(folder.path(), PartitionId(1)).unwrap();
        // Forgotten, as when the process dies: nothing is dropped.
        for times in 1..=3 {
            let mut note = open();
            note.begin(6, "other one", 0).unwrap();
            note.end();
            note.begin(7, "a rule", 2).unwrap();
            std::mem::forget(note);
            let note = open();
            let death = Death { offset: 7, callback: 2, rule: "a rule".into(), times };
            assert_eq!(note.last(), Some(&death));
            assert_eq!(death.is_enough(), times == 3);
            std::mem::forget(note);
        }
        let mut note = open();
        assert!(note.begin(7, "a rule", 2).unwrap_err().contains("3 times"));
        note.begin(8, "a rule", 2).unwrap();
        std::mem::forget(note);
        assert_eq!(open().last().unwrap().times, 1);
        assert_eq!(open().last(), None, "a replay that ended leaves nothing");
    }
}
