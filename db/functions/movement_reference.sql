create or replace function movement_reference(p_kind text, p_reference text, p_parent_reference text) returns text
language sql immutable parallel safe
return case when base_kind(p_kind) is null then p_parent_reference else p_reference end;
comment on function movement_reference(text, text, text) is
    'The reference of the movement that an event is about: a reversal carries its base''s as its own, others name their parent.';
revoke all on function movement_reference from public;
