// What can be set at a deployment: the type, and the JSON Schema of the manifest. Limits need not be given, which only a
// schema that is written out can say.

export interface Parameters {
  metric: string;
  per: number;
  high?: number;
  low?: number;
  deadband: number;
  modulus?: number;
  fastest?: number;
  over: number;
  severity: 'info' | 'warning' | 'minor' | 'major' | 'critical';
}

export const schema = JSON.stringify({
  type: 'object',
  additionalProperties: false,
  required: ['metric'],
  properties: {
    metric: { type: 'string', minLength: 1, maxLength: 100, description: 'A counter: a number that goes up.' },
    per: { type: 'number', exclusiveMinimum: 0, default: 1, unit: 's', description: 'The rate is one of so long: 3600 is per hour.' },
    high: { type: 'number', unit: 'of the rate', description: 'Alert when the rate is above.' },
    low: { type: 'number', unit: 'of the rate', description: 'Alert when the rate is below.' },
    deadband: { type: 'number', minimum: 0, default: 0, unit: 'of the rate', description: 'How far back within the limit the rate must be for the alert to clear.' },
    modulus: { type: 'number', exclusiveMinimum: 0, unit: 'of the metric', description: 'The counter goes on at 0 in the place of this: 65536 of 16 bits. Not given: it never wraps.' },
    fastest: { type: 'number', exclusiveMinimum: 0, unit: 'of the rate', description: 'What would be faster than this is a reset and no rate. Not given: a wrap by more than half of the modulus is.' },
    over: { type: 'number', minimum: 0, maximum: 86400, default: 0, unit: 's', description: 'The least time between two readings that are compared: longer evens the rate out.' },
    severity: { enum: ['info', 'warning', 'minor', 'major', 'critical'], default: 'major' },
  },
});
