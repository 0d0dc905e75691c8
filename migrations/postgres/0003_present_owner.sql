-- Which of some shards are a node's at this moment. A statement sees the rows that were there when it began; what is asked
-- in a volatile function is asked anew. `numbers` are those of the events that are being accepted: who is asked for them
-- first has them before it looks.
CREATE FUNCTION shards_owned_now(numbers bigint[], wanted smallint[], node uuid) RETURNS smallint[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF numbers IS NULL THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(
        SELECT id FROM shard WHERE id = ANY(wanted) AND holder = node AND lease_until > clock_timestamp()
    );
END;
$$;
