//! The beginning of a connection: CONNECT, who is there, CONNACK.

use bytes::{BufMut, BytesMut};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{ConnAck, ConnAckProperties, ConnectReturnCode, LastWill, Login, Packet, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::MqttOptions;
use super::packet::{self, Broken, Frame, reason};
use crate::contract::Credential;

/// Bytes of a CONNECT: client id, will and credential. Before anybody has shown who they are, no more is buffered.
const CONNECT_BYTES: usize = 16 * 1024;

/// What a client says of itself.
pub(crate) struct Hello {
    pub(crate) v5: bool,
    pub(crate) client_id: String,
    /// The client gave none: the one it has was made up here.
    pub(crate) assigned: bool,
    pub(crate) clean: bool,
    /// Seconds that its session is kept; 0: it ends with the connection.
    pub(crate) expiry: u32,
    pub(crate) keep_alive: u16,
    pub(crate) credential: Credential,
    pub(crate) will: Option<LastWill>,
    /// Messages of QoS 1 that it takes at once.
    pub(crate) receive_maximum: u16,
    /// Bytes of the largest packet that it takes.
    pub(crate) packet_bytes: usize,
    /// It wants to be told reasons.
    pub(crate) reasons: bool,
}

/// Why a connection was not made.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Nothing is answered.
    Silent(&'static str),
    /// A CONNACK says why, in the codes of MQTT 5.
    Told { v5: bool, code: u8, why: &'static str },
}

impl Refused {
    pub(crate) fn why(&self) -> &'static str {
        match self {
            Self::Silent(why) | Self::Told { why, .. } => why,
        }
    }
}

/// Reads the CONNECT. What else was read stays in the buffer.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    options: &MqttOptions,
) -> Result<Hello, Refused> {
    let most = CONNECT_BYTES.min(options.packet_bytes);
    loop {
        if buffer.first().is_some_and(|first| *first != packet::CONNECT << 4) {
            return Err(Refused::Silent("not-mqtt"));
        }
        match packet::frame(buffer, most) {
            Ok(Some(frame)) => return parse(frame, buffer, options),
            Ok(None) => {}
            Err(Broken(_, why)) => return Err(Refused::Silent(why)),
        }
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return Err(Refused::Silent("gone-before-connect")),
            Ok(_) => {}
        }
    }
}

fn parse(frame: Frame, buffer: &mut BytesMut, options: &MqttOptions) -> Result<Hello, Refused> {
    // Name (with its length) and level stand in front, the same in all versions.
    let body = &buffer[frame.header..frame.total];
    let level = match body {
        [0, 4, b'M', b'Q', b'T', b'T', level, flags, ..] => {
            if flags & 1 == 1 {
                return Err(Refused::Silent("malformed"));
            }
            *level
        }
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..] => 3,
        _ => return Err(Refused::Silent("not-mqtt")),
    };
    let mut bytes = buffer.split_to(frame.total);
    let packet = match level {
        4 => V4.read_mut(&mut bytes, CONNECT_BYTES),
        5 => V5.read_mut(&mut bytes, CONNECT_BYTES),
        _ => return Err(Refused::Told { v5: false, code: 1, why: "protocol-version" }),
    };
    let v5 = level == 5;
    let told = |code, why| Refused::Told { v5, code, why };
    let Ok(Packet::Connect(connect, properties, will, _, login)) = packet else {
        return Err(Refused::Silent("malformed"));
    };
    let properties = properties.as_ref();
    if properties.is_some_and(|p| p.authentication_method.is_some()) {
        return Err(told(0x8c, "authentication-method"));
    }
    if properties.is_some_and(|p| p.receive_maximum == Some(0) || p.max_packet_size == Some(0)) {
        return Err(told(reason::PROTOCOL_ERROR, "malformed"));
    }
    let mut client_id = connect.client_id;
    let assigned = client_id.is_empty();
    if assigned {
        if !v5 && !connect.clean_session {
            return Err(told(reason::CLIENT_ID, "client-id"));
        }
        client_id = format!("auto-{:016x}", rand::random::<u64>());
    }
    let well_formed = client_id.chars().count() <= 128
        && !client_id.contains(|c: char| matches!(c, '+' | '$' | '#' | '/') || c.is_control());
    if !well_formed {
        return Err(told(reason::CLIENT_ID, "client-id"));
    }
    let asked = if v5 {
        properties.and_then(|p| p.session_expiry_interval).unwrap_or(0)
    } else if connect.clean_session {
        0
    } else {
        u32::MAX
    };
    Ok(Hello {
        v5,
        client_id,
        assigned,
        clean: connect.clean_session,
        expiry: asked.min(options.session_expiry_seconds),
        keep_alive: connect.keep_alive,
        credential: credential(login),
        will,
        receive_maximum: properties.and_then(|p| p.receive_maximum).unwrap_or(u16::MAX),
        packet_bytes: properties.and_then(|p| p.max_packet_size).map_or(usize::MAX, |most| most as usize),
        reasons: properties.and_then(|p| p.request_problem_info) != Some(0),
    })
}

/// A password with a name, or a token: as the password, with no name or with `token` as the name.
fn credential(login: Option<Login>) -> Credential {
    match login {
        None => Credential::None,
        Some(Login { username, password }) if username.is_empty() || username == "token" => {
            Credential::Token(password)
        }
        Some(Login { username, password }) => Credential::Password { user: username, password },
    }
}

/// Writes the CONNACK of a connection that was made.
pub(crate) fn accept(out: &mut BytesMut, hello: &Hello, session_present: bool, options: &MqttOptions) {
    if !hello.v5 {
        out.put_slice(&[0x20, 2, u8::from(session_present), 0]);
        return;
    }
    let ack = ConnAck { session_present, code: ConnectReturnCode::Success };
    let properties = ConnAckProperties {
        session_expiry_interval: Some(hello.expiry),
        receive_max: Some(options.receive_maximum),
        max_qos: Some(1),
        retain_available: Some(1),
        max_packet_size: Some(options.packet_bytes.min(u32::MAX as usize) as u32),
        assigned_client_identifier: hello.assigned.then(|| hello.client_id.clone()),
        topic_alias_max: Some(0),
        wildcard_subscription_available: Some(1),
        subscription_identifiers_available: Some(0),
        shared_subscription_available: Some(0),
        ..ConnAckProperties::default()
    };
    // The properties above have bounded lengths: writing them to memory does not fail.
    let _ = V5.write(Packet::ConnAck(ack, Some(properties)), out);
}

/// Writes the CONNACK of a connection that was refused.
pub(crate) fn refuse(out: &mut BytesMut, v5: bool, code: u8) {
    if v5 {
        out.put_slice(&[0x20, 3, 0, code, 0]);
        return;
    }
    let code = match code {
        1 => 1,
        reason::CLIENT_ID => 2,
        reason::BAD_CREDENTIAL => 4,
        reason::NOT_AUTHORIZED => 5,
        _ => 3,
    };
    out.put_slice(&[0x20, 2, 0, code]);
}
