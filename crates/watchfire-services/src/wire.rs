//! Just enough of the wire protocols to ask a server whether it answers: tests of this crate and readiness need no
//! client library.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A row of an answer: texts, `None` for NULL.
pub type Row = Vec<Option<String>>;

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Runs statements on a PostgreSQL server over its simple protocol (version 3); gives all rows.
pub fn postgres(port: u16, user: &str, database: &str, sql: &str) -> io::Result<Vec<Row>> {
    let mut stream = connect(port)?;
    let mut start = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", database, ""] {
        start.extend_from_slice(text.as_bytes());
        start.push(0);
    }
    stream.write_all(&(start.len() as u32 + 4).to_be_bytes())?;
    stream.write_all(&start)?;
    until_ready(&mut stream, &mut Vec::new())?;
    send(&mut stream, b'Q', &[sql.as_bytes(), b"\0"].concat())?;
    let mut rows = Vec::new();
    until_ready(&mut stream, &mut rows)?;
    let _ = send(&mut stream, b'X', b"");
    Ok(rows)
}

/// Whether a server answers a GET with 200.
pub fn http_ok(port: u16, path: &str) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = connect(port)?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

fn send(stream: &mut TcpStream, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    stream.write_all(&[&[kind][..], &length, body].concat())
}

fn until_ready(stream: &mut TcpStream, rows: &mut Vec<Row>) -> io::Result<()> {
    let mut failed = None;
    loop {
        let mut head = [0; 5];
        // A fatal error is followed by the end of the connection, not by readiness.
        if let Err(error) = stream.read_exact(&mut head) {
            return Err(failed.unwrap_or(error));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]).saturating_sub(4);
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body)?;
        match head[0] {
            b'Z' => return failed.map_or(Ok(()), Err),
            b'E' => {
                // Fields, each a letter and a text that ends with zero.
                let message = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'M'));
                let message = String::from_utf8_lossy(message.unwrap_or_default()).into_owned();
                failed = Some(io::Error::other(message));
            }
            // PGlite asks for a hash of a password, and takes anything; others here trust.
            b'R' if [3_u32, 5].iter().any(|kind| body.starts_with(&kind.to_be_bytes())) => {
                send(stream, b'p', b"postgres\0")?;
            }
            b'D' => rows.push(row(&body)?),
            _ => {}
        }
    }
}

fn row(body: &[u8]) -> io::Result<Row> {
    let mut rest = body.get(2..).ok_or(io::ErrorKind::InvalidData)?;
    let mut row = Row::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        rest = behind;
        let length = i32::from_be_bytes(*length);
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                let (text, behind) = rest.split_at_checked(length).ok_or(io::ErrorKind::InvalidData)?;
                rest = behind;
                Some(String::from_utf8_lossy(text).into_owned())
            }
        });
    }
    Ok(row)
}

/// How many brokers a Kafka server names: its answer to a metadata request (key 3, version 4) for no topics.
pub fn kafka_brokers(port: u16) -> io::Result<u32> {
    let mut stream = connect(port)?;
    let mut request = vec![0, 3, 0, 4, 0, 0, 0, 1, 0, 5];
    request.extend_from_slice(b"ready");
    request.extend_from_slice(&[0, 0, 0, 0, 0]);
    stream.write_all(&(request.len() as u32).to_be_bytes())?;
    stream.write_all(&request)?;
    // Length, correlation, throttle time, number of brokers.
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    Ok(u32::from_be_bytes([head[12], head[13], head[14], head[15]]))
}

/// The return code of an MQTT 3.1.1 connection as this client: 0 is accepted.
pub fn mqtt_connect(port: u16, client: &str) -> io::Result<u8> {
    let mut stream = connect(port)?;
    let length = u8::try_from(client.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let head = [0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, length];
    stream.write_all(&[&head, client.as_bytes()].concat())?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer[0] != 0x20 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let _ = stream.write_all(&[0xe0, 0]);
    Ok(answer[3])
}
