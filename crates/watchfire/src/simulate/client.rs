//! An MQTT 3.1.1 client that does one thing: publish with QoS 1, keep what is not acknowledged, and send it
//! again over the next connection. Light enough for thousands in one process.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Tally;

/// Messages that may wait for their acknowledgement.
const WINDOW: usize = 64;

/// Seconds between two signs of life; the engine hangs up after one and a half times as long.
const KEEP_ALIVE: u16 = 60;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One message: topic and payload.
pub type Message = (String, Vec<u8>);

/// Sends what comes until there is no more or it is told to stop, then waits for the acknowledgements.
pub async fn run(
    address: SocketAddr,
    id: String,
    mut messages: mpsc::Receiver<Message>,
    tally: Arc<Tally>,
    stop: CancellationToken,
) {
    let mut pending: VecDeque<(u16, Message)> = VecDeque::new();
    let (mut next, mut wait) = (1_u16, Duration::from_millis(50));
    while !(messages.is_closed() && messages.is_empty() && pending.is_empty()) {
        let connected = connect(address, &id).await;
        if let Ok(stream) = connected {
            tally.connected.fetch_add(1, Ordering::Relaxed);
            let ended = talk(stream, &mut messages, &mut pending, &mut next, &tally, &stop).await;
            tally.connected.fetch_sub(1, Ordering::Relaxed);
            if ended.is_ok() {
                return;
            }
            wait = Duration::from_millis(50);
        }
        tally.broken.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

async fn connect(address: SocketAddr, id: &str) -> io::Result<TcpStream> {
    let attempt = async {
        let mut stream = TcpStream::connect(address).await?;
        // Acknowledgements would wait 40 ms for each other.
        stream.set_nodelay(true)?;
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        body.extend([4, 0b10]);
        body.extend(KEEP_ALIVE.to_be_bytes());
        text(&mut body, id);
        stream.write_all(&packet(0x10, &body)).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        match answer {
            [0x20, 2, _, 0] => Ok(stream),
            _ => Err(io::Error::other(format!("the connection was refused with code {}", answer[3]))),
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One connection. Ends well once there is nothing more to say.
async fn talk(
    mut stream: TcpStream,
    messages: &mut mpsc::Receiver<Message>,
    pending: &mut VecDeque<(u16, Message)>,
    next: &mut u16,
    tally: &Tally,
    stop: &CancellationToken,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    // What the connection before did not get acknowledged, marked as sent before.
    let mut out = Vec::new();
    for (id, message) in pending.iter() {
        publish(&mut out, *id, message, true);
    }
    writer.write_all(&out).await?;
    let mut buffer = Vec::with_capacity(1024);
    let mut open = true;
    loop {
        if !open && pending.is_empty() {
            writer.write_all(&[0xe0, 0]).await?;
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled(), if open => {
                // What still waits was never sent: nobody counts on it.
                messages.close();
                while messages.try_recv().is_ok() {}
                open = false;
            }
            message = messages.recv(), if open && pending.len() < WINDOW => {
                out.clear();
                let Some(message) = message else {
                    open = false;
                    continue;
                };
                enqueue(&mut out, message, pending, next, tally);
                while pending.len() < WINDOW && let Ok(message) = messages.try_recv() {
                    enqueue(&mut out, message, pending, next, tally);
                }
                writer.write_all(&out).await?;
            }
            read = tokio::time::timeout(PATIENCE, reader.read_buf(&mut buffer)) => match read {
                Ok(read) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    acknowledged(&mut buffer, pending, tally)?;
                }
                // Nothing to wait for: a sign of life.
                Err(_) if pending.is_empty() => writer.write_all(&[0xc0, 0]).await?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            },
        }
    }
}

fn enqueue(
    out: &mut Vec<u8>,
    message: Message,
    pending: &mut VecDeque<(u16, Message)>,
    next: &mut u16,
    tally: &Tally,
) {
    let id = *next;
    *next = next.checked_add(1).unwrap_or(1);
    publish(out, id, &message, false);
    pending.push_back((id, message));
    tally.sent.fetch_add(1, Ordering::Relaxed);
}

/// Takes the PUBACKs from what was read; other packets are passed over.
fn acknowledged(
    buffer: &mut Vec<u8>,
    pending: &mut VecDeque<(u16, Message)>,
    tally: &Tally,
) -> io::Result<()> {
    let mut at = 0;
    while buffer.len() >= at + 2 {
        let (kind, length) = (buffer[at] >> 4, usize::from(buffer[at + 1]));
        if length > 127 {
            return Err(io::Error::other("the engine sent what was not asked for"));
        }
        let Some(body) = buffer.get(at + 2..at + 2 + length) else { break };
        if let (4, [high, low]) = (kind, body) {
            let id = u16::from_be_bytes([*high, *low]);
            // Nearly always the first: they come in order.
            if let Some(place) = pending.iter().position(|(pending, _)| *pending == id) {
                pending.remove(place);
                tally.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
        at += 2 + length;
    }
    buffer.drain(..at);
    Ok(())
}

fn publish(out: &mut Vec<u8>, id: u16, (topic, payload): &Message, again: bool) {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
    text(&mut body, topic);
    body.extend(id.to_be_bytes());
    body.extend(payload);
    out.extend(packet(if again { 0x3a } else { 0x32 }, &body));
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// A packet: MQTT 3.1.1, section 2.2.
fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(kind);
    let mut length = body.len();
    loop {
        let digit = (length % 128) as u8;
        length /= 128;
        out.push(if length > 0 { digit | 128 } else { digit });
        if length == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        assert_eq!(packet(0x30, &[0; 127])[..2], [0x30, 127]);
        assert_eq!(packet(0x30, &[0; 128])[..3], [0x30, 0x80, 1]);
        assert_eq!(packet(0x30, &[0; 16_384])[..4], [0x30, 0x80, 0x80, 1]);
    }

    #[test]
    fn acknowledgements_may_come_in_pieces_and_in_any_order() {
        let tally = Tally::default();
        let mut pending: VecDeque<_> = (1..=3).map(|id| (id, (String::new(), Vec::new()))).collect();
        let mut buffer = vec![0x40, 2, 0, 2, 0x40, 2, 0];
        acknowledged(&mut buffer, &mut pending, &tally).unwrap();
        assert_eq!((tally.acknowledged(), buffer.as_slice()), (1, &[0x40, 2, 0][..]));
        buffer.push(1);
        acknowledged(&mut buffer, &mut pending, &tally).unwrap();
        assert_eq!((tally.acknowledged(), pending.len(), buffer.len()), (2, 1, 0));
        acknowledged(&mut vec![0x40, 2, 0, 9], &mut pending, &tally).unwrap();
        assert_eq!(tally.acknowledged(), 2);
    }
}
