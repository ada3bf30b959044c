-- What a channel keeps of a group between its messages, such as which message of a chat is changed in place.
CREATE TABLE delivery_threads (
    receiver TEXT NOT NULL,
    group_key TEXT NOT NULL,
    kept TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (receiver, group_key)
) WITHOUT ROWID;
