//! A folder as one stream and back: the tar format (POSIX.1-1988 ustar, section 10.1.1 of the standard), so
//! that a backup can be looked into with any tool. Files and folders only.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

const BLOCK: usize = 512;

/// Writes everything in a folder, by name, with paths relative to it.
pub fn pack(folder: &Path, out: &mut impl Write) -> io::Result<()> {
    pack_below(folder, Path::new(""), out)?;
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

fn pack_below(root: &Path, below: &Path, out: &mut impl Write) -> io::Result<()> {
    let mut names: Vec<_> = std::fs::read_dir(root.join(below))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let path = below.join(name);
        let full = root.join(&path);
        let kind = std::fs::symlink_metadata(&full)?.file_type();
        if kind.is_dir() {
            out.write_all(&header(&path, 0, b'5')?)?;
            pack_below(root, &path, out)?;
        } else if kind.is_file() {
            let file = File::open(&full)?;
            let size = file.metadata()?.len();
            out.write_all(&header(&path, size, b'0')?)?;
            // A file that grows meanwhile is cut at the size in its header; one that shrinks is an error.
            if io::copy(&mut Read::take(&file, size), out)? != size {
                return Err(io::Error::other(format!(
                    "{} became shorter while it was copied",
                    path.display()
                )));
            }
            out.write_all(&vec![0; padding(size)])?;
        }
    }
    Ok(())
}

/// Unpacks a stream into a folder, which is made. A path that leads out of it, or a stream that ends early,
/// is an error. Returns how many files there were.
pub fn unpack(input: &mut impl Read, into: &Path) -> io::Result<u64> {
    std::fs::create_dir_all(into)?;
    let mut files = 0;
    loop {
        let mut block = [0; BLOCK];
        input.read_exact(&mut block).map_err(|_| invalid("the archive ends early"))?;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(files);
        }
        let (path, size, kind) = parse(&block)?;
        let full = into.join(&path);
        match kind {
            b'5' => std::fs::create_dir_all(&full)?,
            b'0' | 0 => {
                if let Some(parent) = full.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                let mut file = File::create_new(&full)?;
                if io::copy(&mut input.by_ref().take(size), &mut file)? != size {
                    return Err(invalid("the archive ends early"));
                }
                file.sync_all()?;
                let mut rest = [0; BLOCK];
                input
                    .read_exact(&mut rest[..padding(size)])
                    .map_err(|_| invalid("the archive ends early"))?;
                files += 1;
            }
            other => return Err(invalid(&format!("the archive holds an entry of kind {other}"))),
        }
    }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn header(path: &Path, size: u64, kind: u8) -> io::Result<[u8; BLOCK]> {
    let name = path.to_str().ok_or_else(|| invalid("a name is not UTF-8"))?;
    if name.len() > 100 {
        return Err(invalid(&format!("the path {name} is longer than the format takes")));
    }
    // Eleven octal digits.
    if size >= 1 << 33 {
        return Err(invalid(&format!("{name} is larger than the format takes")));
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if kind == b'5' { "0000700" } else { "0000600" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    block[156] = kind;
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

fn parse(block: &[u8; BLOCK]) -> io::Result<(PathBuf, u64, u8)> {
    let text = |range: std::ops::Range<usize>| {
        let bytes = block[range].split(|&byte| byte == 0).next().unwrap_or_default();
        std::str::from_utf8(bytes).map(str::trim).map_err(|_| invalid("this is no archive of ours"))
    };
    let octal =
        |range| u64::from_str_radix(text(range)?, 8).map_err(|_| invalid("this is no archive of ours"));
    let sum: u64 =
        (0..BLOCK).map(|i| if (148..156).contains(&i) { u64::from(b' ') } else { u64::from(block[i]) }).sum();
    if octal(148..156)? != sum {
        return Err(invalid("the archive is damaged, or none"));
    }
    let path = PathBuf::from(text(0..100)?);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !inside || path.as_os_str().is_empty() {
        return Err(invalid(&format!("the path {} leads out of the archive", path.display())));
    }
    Ok((path, octal(124..136)?, block[156]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("log/empty")).unwrap();
        for (name, size) in [("a.db", 0), ("log/1.segment", 512), ("log/2.segment", 1300)] {
            std::fs::write(from.path().join(name), vec![7; size]).unwrap();
        }
        let mut stream = Vec::new();
        pack(from.path(), &mut stream).unwrap();
        assert_eq!(unpack(&mut &stream[..], &to.path().join("new")).unwrap(), 3);
        assert_eq!(std::fs::read(to.path().join("new/log/2.segment")).unwrap(), vec![7; 1300]);
        assert!(to.path().join("new/log/empty").is_dir());
        // Wherever it is cut, that is found.
        for cut in [stream.len() - 1024, 600, 100] {
            assert!(unpack(&mut &stream[..cut], &to.path().join(cut.to_string())).is_err(), "{cut}");
        }
    }

    #[test]
    fn paths_that_lead_out_and_damage_are_refused() {
        let to = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x"] {
            let mut stream = header(Path::new(path), 0, b'0').unwrap().to_vec();
            stream.extend([0; 1024]);
            assert!(unpack(&mut &stream[..], to.path()).unwrap_err().to_string().contains("leads out"));
        }
        let mut block = header(Path::new("x"), 0, b'0').unwrap();
        block[3] ^= 1;
        assert!(unpack(&mut &block[..], to.path()).unwrap_err().to_string().contains("damaged"));
    }
}
