//! An MQTT client without a client library: what is proved must not rest on what is tested, nor on
//! reconnections that nobody sees. Packets as in MQTT 3.1.1 and 5, sections 3.1 to 3.4.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long an answer may take before the reading is sent again.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A connection.
pub struct Link {
    stream: TcpStream,
    five: bool,
    next: u16,
}

impl Link {
    /// Connects as `client`, by MQTT 5 or 3.1.1.
    pub async fn connect(address: SocketAddr, client: &str, five: bool) -> Result<Self> {
        let mut stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        // Level, clean start, 30 s of keep-alive.
        body.extend_from_slice(&[if five { 5 } else { 4 }, 2, 0, 30]);
        if five {
            body.push(0);
        }
        text(&mut body, client);
        stream.write_all(&packet(0x10, &body)).await?;
        let mut link = Self { stream, five, next: 0 };
        let (kind, body) = link.read().await?;
        ensure!(kind == 0x20 && body.get(1) == Some(&0), "refused: {kind:02x} {body:02x?}");
        Ok(link)
    }

    /// Publishes payloads with QoS 1, all before the first answer; calls `acknowledged` for each, in order.
    pub async fn publish(
        &mut self,
        topic: &str,
        payloads: &[String],
        again: bool,
        mut acknowledged: impl FnMut(),
    ) -> Result<()> {
        let mut bytes = Vec::new();
        let first = self.next;
        for payload in payloads {
            self.next = self.next.wrapping_add(1).max(1);
            let mut body = Vec::new();
            text(&mut body, topic);
            body.extend_from_slice(&self.next.to_be_bytes());
            if self.five {
                body.push(0);
            }
            body.extend_from_slice(payload.as_bytes());
            bytes.extend(packet(if again { 0x3a } else { 0x32 }, &body));
        }
        self.stream.write_all(&bytes).await?;
        let mut expected = first;
        for _ in payloads {
            expected = expected.wrapping_add(1).max(1);
            let (kind, body) = self.read().await?;
            let good = kind == 0x40
                && body.get(..2) == Some(&expected.to_be_bytes()[..])
                // A reason code of MQTT 5: below 128 it is a success.
                && body.get(2).is_none_or(|code| *code < 0x80);
            if !good {
                bail!("expected the PUBACK of {expected}, got {kind:02x} {body:02x?}");
            }
            acknowledged();
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let packet = async {
            let kind = self.stream.read_u8().await?;
            let (mut length, mut shift) = (0_usize, 0);
            loop {
                let byte = self.stream.read_u8().await?;
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
                ensure!(shift < 28, "a length of more than four bytes");
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await?;
            Ok((kind, body))
        };
        tokio::time::timeout(PATIENCE, packet).await?
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&(text.len() as u16).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut rest = body.len();
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}
