// The gated delta rule over all tokens of B sequences. One SIMD group keeps one row of one head's
// state in its registers: grid (32, DV, B * HV), and DK is a multiple of 32.
//
// q, k: [B, T, HK, DK]; v: [B, T, HV, DV]; log_decay, beta: [B, T, HV]; state: [B, HV, DV, DK].

constexpr int PER_LANE = DK / 32;
const uint lane = thread_position_in_threadgroup.x;
const uint row = thread_position_in_grid.y;
const uint sequence = thread_position_in_grid.z / HV;
const uint head = thread_position_in_grid.z % HV;
const uint key_head = head / (HV / HK);
const uint tokens = q_shape[1];
const uint state_at = (thread_position_in_grid.z * DV + row) * DK + lane * PER_LANE;

float s[PER_LANE];
for (int i = 0; i < PER_LANE; i++) {
    s[i] = state[state_at + i];
}
for (uint t = 0; t < tokens; t++) {
    const uint token = sequence * tokens + t;
    const uint key_at = (token * HK + key_head) * DK + lane * PER_LANE;
    const uint gate_at = token * HV + head;
    const uint value_at = gate_at * DV + row;

    const float decay = metal::exp(static_cast<float>(log_decay[gate_at]));
    float recalled = 0.0f;
    for (int i = 0; i < PER_LANE; i++) {
        s[i] *= decay;
        recalled += s[i] * static_cast<float>(k[key_at + i]);
    }
    recalled = metal::simd_sum(recalled);

    const float error = static_cast<float>(v[value_at]) - recalled;
    const float delta = error * static_cast<float>(beta[gate_at]);
    float read = 0.0f;
    for (int i = 0; i < PER_LANE; i++) {
        s[i] += static_cast<float>(k[key_at + i]) * delta;
        read += s[i] * static_cast<float>(q[key_at + i]);
    }
    read = metal::simd_sum(read);
    if (lane == 0) {
        y[value_at] = static_cast<OUT>(read);
    }
}
for (int i = 0; i < PER_LANE; i++) {
    new_state[state_at + i] = s[i];
}
