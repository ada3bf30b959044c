//! What an error of the connection, and a broker's answer to a message, means.

use rumqttc::v5::mqttbytes::Error as MqttError;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason};
use rumqttc::v5::{ConnectionError, StateError};

use crate::Fault;

/// A connection that broke, or never was.
pub(super) fn fault(error: &ConnectionError) -> Fault {
    use ConnectReturnCode as Code;
    let code = match error {
        ConnectionError::Tls(_) => "tls",
        ConnectionError::ConnectionRefused(code) => match code {
            Code::BadUserNamePassword
            | Code::NotAuthorized
            | Code::Banned
            | Code::BadAuthenticationMethod
            | Code::BadClientId
            | Code::ClientIdentifierNotValid => "credentials",
            Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => "protocol",
            Code::ServiceUnavailable
            | Code::ServerUnavailable
            | Code::ServerBusy
            | Code::QuotaExceeded
            | Code::ConnectionRateExceeded => "overloaded",
            _ => "refused",
        },
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => match reason_code {
            DisconnectReasonCode::NotAuthorized => "not-permitted",
            DisconnectReasonCode::QuotaExceeded | DisconnectReasonCode::ServerBusy => "overloaded",
            DisconnectReasonCode::PacketTooLarge => "refused",
            _ => "unreachable",
        },
        // The client reads packets off the connection: that it breaks is an error of reading one.
        ConnectionError::MqttState(StateError::Deserialization(MqttError::Io(_))) => "unreachable",
        // A broker that speaks MQTT 3.1.1 alone answers in a way that is none of MQTT 5.
        ConnectionError::MqttState(StateError::Deserialization(_)) | ConnectionError::NotConnAck(_) => {
            "protocol"
        }
        _ => "unreachable",
    };
    // Its text has that of its causes in it.
    Fault::new(code, error)
}

/// What an answer to a message means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The broker has it; also where nobody listens.
    Taken,
    /// It will never take this message.
    Refused(String),
    /// It takes none now.
    Later(Fault),
}

pub(super) fn answer(reason: PubAckReason) -> Answer {
    let said = format!("the broker answered {reason:?}");
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Answer::Taken,
        PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => Answer::Refused(said),
        PubAckReason::NotAuthorized => Answer::Later(Fault::new("not-permitted", said)),
        PubAckReason::QuotaExceeded => Answer::Later(Fault::new("overloaded", said)),
        PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse => Answer::Later(Fault::new("refused", said)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_names() {
        let check = |error: ConnectionError, expected: &str| {
            assert_eq!(fault(&error).code, expected, "{error}");
        };
        let refused = ConnectionError::ConnectionRefused;
        check(refused(ConnectReturnCode::BadUserNamePassword), "credentials");
        check(refused(ConnectReturnCode::UnsupportedProtocolVersion), "protocol");
        check(refused(ConnectReturnCode::ServerBusy), "overloaded");
        check(ConnectionError::Io(std::io::ErrorKind::ConnectionRefused.into()), "unreachable");
        check(ConnectionError::MqttState(StateError::ConnectionAborted), "unreachable");
        let reset = MqttError::Io(std::io::ErrorKind::ConnectionReset.into());
        check(ConnectionError::MqttState(StateError::Deserialization(reset)), "unreachable");
        let strange = MqttError::InvalidProtocol;
        check(ConnectionError::MqttState(StateError::Deserialization(strange)), "protocol");
        assert_eq!(answer(PubAckReason::NoMatchingSubscribers), Answer::Taken);
        assert!(matches!(answer(PubAckReason::PayloadFormatInvalid), Answer::Refused(_)));
        assert!(matches!(answer(PubAckReason::NotAuthorized), Answer::Later(Fault { code, .. })
            if code == "not-permitted"));
    }
}
