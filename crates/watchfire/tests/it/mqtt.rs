//! An MQTT 3.1.1 client of a few lines, so that what is tested is not tested with itself.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
pub struct Client<S = TcpStream> {
    stream: S,
    next: u16,
    /// The server had kept its session.
    pub resumed: bool,
}

impl Client {
    /// Connects; gives the return code where it is not 0.
    pub async fn connect(address: SocketAddr, id: &str, login: Option<(&str, &str)>) -> Result<Self, u8> {
        Self::open(tcp(address).await, id, login, true).await
    }

    /// As [`Client::connect`], with a session that outlives the connection.
    pub async fn keeping(address: SocketAddr, id: &str, login: (&str, &str)) -> Result<Self, u8> {
        Self::open(tcp(address).await, id, Some(login), false).await
    }
}

async fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Says hello over a stream; gives the return code where it is not 0, and 255 where the stream ends before.
    pub async fn open(mut stream: S, id: &str, login: Option<(&str, &str)>, clean: bool) -> Result<Self, u8> {
        let mut body = text("MQTT");
        body.extend([4, if login.is_some() { 0xc0 } else { 0 } | u8::from(clean) << 1, 0, 60]);
        body.extend(text(id));
        if let Some((user, password)) = login {
            body.extend(text(user));
            body.extend(text(password));
        }
        stream.write_all(&[&[0x10, body.len() as u8], &body[..]].concat()).await.map_err(|_| 255)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.map_err(|_| 255)?;
        assert_eq!(answer[..2], [0x20, 2]);
        if answer[3] == 0 { Ok(Self { stream, next: 1, resumed: answer[2] == 1 }) } else { Err(answer[3]) }
    }

    fn next(&mut self) -> [u8; 2] {
        self.next += 1;
        (self.next - 1).to_be_bytes()
    }

    /// Publishes with QoS 1 and waits for the acknowledgement. `false`: the connection broke.
    pub async fn publish(&mut self, topic: &str, payload: &str) -> bool {
        let id = self.next();
        let body = [text(topic), id.to_vec(), payload.as_bytes().to_vec()].concat();
        assert!(body.len() < 16_384);
        let length = [(body.len() % 128) as u8 | 0x80, (body.len() / 128) as u8];
        if self.stream.write_all(&[&[0x32], &length[..], &body[..]].concat()).await.is_err() {
            return false;
        }
        let mut answer = [0; 4];
        let read = tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut answer)).await;
        match read.expect("an acknowledgement, or an end, within 30 s") {
            Ok(_) => answer == [0x40, 2, id[0], id[1]],
            Err(_) => false,
        }
    }

    /// The next message of a subscription: topic, payload, and whether it was retained.
    pub async fn message(&mut self) -> (String, Vec<u8>, bool) {
        let read = async {
            let first = self.stream.read_u8().await.unwrap();
            assert_eq!(first & 0xf6, 0x30, "a PUBLISH with QoS 0");
            let (mut length, mut shift) = (0_usize, 0);
            loop {
                let byte = self.stream.read_u8().await.unwrap();
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.unwrap();
            let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            let payload = body.split_off(end);
            (String::from_utf8(body.split_off(2)).unwrap(), payload, first & 1 == 1)
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("a message within a minute")
    }

    /// Publishes a temperature of a device.
    pub async fn temperature(&mut self, device: &str, value: f64) -> bool {
        let payload = format!(r#"{{"metrics":{{"temperature":{value}}}}}"#);
        self.publish(&format!("devices/{device}/telemetry"), &payload).await
    }

    /// Subscribes with QoS 0; whether that was allowed.
    pub async fn subscribe(&mut self, filter: &str) -> bool {
        let id = self.next();
        let body = [id.to_vec(), text(filter), vec![0]].concat();
        self.stream.write_all(&[&[0x82, body.len() as u8], &body[..]].concat()).await.unwrap();
        let mut answer = [0; 5];
        self.stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[..4], [0x90, 3, id[0], id[1]]);
        answer[4] < 3
    }

    /// The topic of the next message, which is of QoS 0 and short.
    pub async fn hears(&mut self) -> String {
        let mut head = [0; 4];
        let read = tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut head)).await;
        read.expect("a message within 30 s").unwrap();
        assert_eq!(head[0], 0x30);
        let mut rest = vec![0; usize::from(head[1]) - 2];
        self.stream.read_exact(&mut rest).await.unwrap();
        rest.truncate(usize::from(u16::from_be_bytes([head[2], head[3]])));
        String::from_utf8(rest).unwrap()
    }

    /// Waits until the server closes the connection.
    pub async fn ends(mut self) {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        // Without goodbye of TLS it is an end as well.
        let _ = read.expect("an end within 30 s");
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}
