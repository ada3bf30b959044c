//! What each error of librdkafka means for a consumer of ours.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What is done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It passes within the protocol: the client tries again by itself.
    Passing,
    /// No broker answers. The client connects again by itself; it is said that we wait.
    Down,
    /// A broker does not let us in: the login does not fit. The client tries on.
    Login,
    /// A certificate does not fit, the broker's or ours. The client tries on with what it has read of our files; another
    /// one would read them again.
    Certificate,
    /// The cluster refuses what we want, or does not have it. That may be put right on its side: the client tries on, and
    /// it is said what is refused.
    Refused,
    /// The place we want to read from is not there (any more).
    OutOfRange,
    /// This client is of no use any more: another one is made after a while.
    Anew,
    /// The configuration or the cluster must change: nothing is tried again.
    Stop,
}

/// The class of an error.
pub(super) fn class(error: &KafkaError) -> Class {
    match error {
        KafkaError::MessageConsumptionFatal(_) => Class::Anew,
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_) => Class::Stop,
        KafkaError::Subscription(_) => Class::Stop,
        error => error.rdkafka_error_code().map_or(Class::Passing, of_code),
    }
}

fn of_code(code: Code) -> Class {
    match code {
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::BrokerNotAvailable
        | Code::NetworkException
        | Code::RequestTimedOut => Class::Down,

        Code::SaslAuthenticationFailed | Code::IllegalSASLState | Code::Authentication => Class::Login,

        Code::SSL => Class::Certificate,

        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicId
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::GroupMaxSizeReached
        | Code::PolicyViolation
        // Records that cannot be unpacked or do not match their checksum: the broker may have a whole copy elsewhere.
        | Code::BadMessage
        | Code::BadCompression
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::MessageSizeTooLarge
        | Code::InvalidRecord
        | Code::UnsupportedCompressionType => Class::Refused,

        Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation => Class::OutOfRange,

        Code::Fatal
        | Code::Fenced
        | Code::FencedInstanceId
        | Code::UnreleasedInstanceId
        | Code::CriticalSystemResource
        | Code::Inconsistent
        | Code::State
        | Code::Conflict
        | Code::RebootstrapRequired => Class::Anew,

        Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedSASLMechanism
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedAssignor
        | Code::NotImplemented
        | Code::UnknownProtocol
        | Code::InvalidArgument
        | Code::InvalidConfig
        | Code::InvalidGroupId
        | Code::InvalidTopic
        | Code::InvalidSessionTimeout
        | Code::InconsistentGroupProtocol
        | Code::SecurityDisabled => Class::Stop,

        // Rebalances, elections, coordinators that move, throttling, and whatever a later broker has: the client deals
        // with it, and an error that stays is counted each time.
        _ => Class::Passing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let check =
            |code, expected| assert_eq!(class(&KafkaError::MessageConsumption(code)), expected, "{code:?}");
        check(Code::AllBrokersDown, Class::Down);
        check(Code::NotLeaderForPartition, Class::Passing);
        check(Code::RebalanceInProgress, Class::Passing);
        check(Code::ThrottlingQuotaExceeded, Class::Passing);
        check(Code::PollExceeded, Class::Passing);
        check(Code::TopicAuthorizationFailed, Class::Refused);
        check(Code::SaslAuthenticationFailed, Class::Login);
        check(Code::SSL, Class::Certificate);
        check(Code::AutoOffsetReset, Class::OutOfRange);
        check(Code::FencedInstanceId, Class::Anew);
        check(Code::UnsupportedSASLMechanism, Class::Stop);
        check(Code::InconsistentGroupProtocol, Class::Stop);
        assert_eq!(class(&KafkaError::MessageConsumptionFatal(Code::Unknown)), Class::Anew);
        assert_eq!(class(&KafkaError::ClientCreation(String::new())), Class::Stop);
    }
}
